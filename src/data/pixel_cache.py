"""Photos decoded once, by several processes, into arrays on disk; an interrupted build is resumed.

A folder holds, all in the order of the given paths:
    pixels.npy       uint8   [N, size, size, C]             the view
    crops.npy        uint8   [N, crops - 1, size, size, C]  its other native crops, where view.crops asks for some
    handcrafted.npy  float32 [N, F]                         see src.data.handcrafted
    phash.npy        uint64  [N]                            perceptual hash, the same for all views
    digests.npy      uint8   [N, 16]                        first half of the file's SHA-256; zeros where it is absent
    problems.json    which photos are unreadable and why, by finished chunk
"""

import functools
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from src.base.files import digest_of, naming, write_json
from src.base.machine import sync_data
from src.base.worker_pool import worker_pool
from src.data.handcrafted import NAMES
from src.data.image import DEFAULT_MEGAPIXELS, DIGEST_BYTES, load_photo
from src.settings.schema import ViewSettings

PROGRESS = "problems.json"
CHUNK = 16
"""Photos decoded and written at once: few, as the processes end up to one chunk apart."""
VERSION = 4
"""Raise when the same photo would give other numbers than before."""
_PHOTOS_A_PROCESS = 64
"""Fewer are decoded sooner than another process has started."""
_SYNC_EVERY = 16
"""Chunks between two entries into problems.json: what a killed build does again."""

Done = dict[int, dict[int, str]]
"""Finished chunks, by their first row, with the problems of their unreadable photos by row."""
Chunks = Sequence[tuple[int, Sequence[Path]]]
"""Photos to be decoded, by the first row of each chunk."""


def _shapes(view: ViewSettings, photos: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    channels = 1 if view.color == "gray" else 3
    shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "pixels.npy": (np.dtype(np.uint8), (photos, view.size, view.size, channels)),
        "handcrafted.npy": (np.dtype(np.float32), (photos, len(NAMES))),
        "phash.npy": (np.dtype(np.uint64), (photos,)),
        "digests.npy": (np.dtype(np.uint8), (photos, DIGEST_BYTES)),
    }
    if view.crops > 1:
        shapes["crops.npy"] = (np.dtype(np.uint8), (photos, view.crops - 1, view.size, view.size, channels))
    return shapes


def _create(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """A file of zeros that numpy can map. A new file, so that a worker that outlived its parent writes elsewhere."""
    path.unlink(missing_ok=True)
    with naming(path):
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _prepare_process() -> None:
    cv2.setNumThreads(1)
    # Freeing one large block teaches glibc to keep smaller ones: without it each picture is mapped, faulted in page
    # by page and unmapped again, which doubles the time of the features.
    bytes(30 << 20)


def _write(path: Path, begin: int, rows: np.ndarray) -> None:
    """Rows into their place in an array file, through the page cache and not through a map of the whole."""
    with naming(path), open(path, "r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(file.tell() + begin * rows[0].nbytes)
        file.write(rows.data)


def _decode_chunk(
    folder: Path, view: ViewSettings, megapixels: int, begin: int, photos: Sequence[Path]
) -> dict[int, str]:
    """Decode photos and write them as the rows from `begin` on; the problems of the unreadable ones, by row."""
    loaded = [load_photo(photo, view, megapixels) for photo in photos]
    for name, (dtype, _) in _shapes(view, 0).items():
        rows = np.stack([np.asarray(getattr(photo, name.removesuffix(".npy")), dtype) for photo in loaded])
        _write(folder / name, begin, rows)
    return {row: photo.problem for row, photo in enumerate(loaded, begin) if photo.problem is not None}


def _decoded(
    pool: Executor | None, decode_chunk: Callable[[int, Sequence[Path]], dict[int, str]], chunks: Chunks
) -> Iterator[tuple[int, dict[int, str]]]:
    """Decode the chunks; the first row and the problems of each as it is finished.

    The pool begins with the first chunks, this process with the last, at once: the pool's processes take half a second
    to start.
    """
    if pool is None:
        yield from ((begin, decode_chunk(begin, photos)) for begin, photos in chunks)
        return
    _prepare_process()
    running = deque((begin, photos, pool.submit(decode_chunk, begin, photos)) for begin, photos in chunks)
    while running and running[-1][2].cancel():
        begin, photos, _ = running.pop()
        yield begin, decode_chunk(begin, photos)
        while running and running[0][2].done():
            begin, _, future = running.popleft()
            yield begin, future.result()
    yield from ((begin, future.result()) for begin, _, future in running)


def _state(path: Path) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None


def _key(root: Path, paths: Sequence[str], view: ViewSettings, megapixels: int) -> str:
    photos = [[path, _state(root / path)] for path in paths]
    return digest_of([VERSION, CHUNK, asdict(view), megapixels, NAMES, photos])


def _read_progress(file: Path, key: str) -> Done | None:
    """The finished chunks; None where the file is absent, damaged or of another build."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        chunks = content["chunks"] if content["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if chunks is None:
        return None
    return {int(begin): {int(row): problem for row, problem in rows.items()} for begin, rows in chunks.items()}


def _write_progress(folder: Path, names: Iterable[str], key: str, done: Done) -> None:
    """Enter finished chunks once they have reached the disk: not even a power cut leaves a false entry."""
    for name in names:
        with naming(folder / name), open(folder / name, "r+b") as file:
            sync_data(file.fileno())
    write_json(folder / PROGRESS, {"key": key, "chunks": dict(sorted(done.items()))})


def build_pixel_cache(
    folder: Path,
    root: Path,
    paths: Sequence[str],
    view: ViewSettings,
    processes: int,
    progress: bool,
    megapixels: int = DEFAULT_MEGAPIXELS,
) -> list[str | None]:
    """Decode the photos `root`/`paths` into the arrays named above, in `folder`.

    Returns for each photo None, or the reason why it is unreadable; such a photo is black. An interrupted build is
    resumed, and the files are the same bytes; with other arguments, or where the size or time of a photo has changed,
    it starts over; a complete one returns at once. One process at a time may build a folder: the caller holds its lock.
    processes: 1 decodes in this process. megapixels: as for `decode`.
    Raises InputError where a decoding process is killed, OSError where the disk is full.
    """
    folder, root = Path(folder), Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    shapes, key = _shapes(view, len(paths)), _key(root, paths, view, megapixels)
    done = _read_progress(folder / PROGRESS, key)
    if done is None or not all((folder / name).exists() for name in shapes):
        (folder / PROGRESS).unlink(missing_ok=True)
        for name, (dtype, shape) in shapes.items():
            _create(folder / name, dtype, shape)
        done = {}
    chunks = [
        (begin, [root / path for path in paths[begin : begin + CHUNK]])
        for begin in range(0, len(paths), CHUNK)
        if begin not in done
    ]
    if chunks:
        decode_chunk = functools.partial(_decode_chunk, folder, view, megapixels)
        left = sum(len(photos) for _, photos in chunks)
        others = min(processes, -(-left // _PHOTOS_A_PROCESS)) - 1
        with (
            worker_pool(others, "decodes photos", _prepare_process) if others else nullcontext() as pool,
            tqdm(
                total=len(paths), initial=len(paths) - left, desc="decode", unit=" photos", disable=not progress
            ) as bar,
        ):
            for index, (begin, problems) in enumerate(_decoded(pool, decode_chunk, chunks), 1):
                done[begin] = problems
                bar.update(min(CHUNK, len(paths) - begin))
                if index % _SYNC_EVERY == 0 or index == len(chunks):
                    _write_progress(folder, shapes, key, done)
    problems = {row: problem for rows in done.values() for row, problem in rows.items()}
    return [problems.get(row) for row in range(len(paths))]

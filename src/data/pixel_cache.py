"""Photos decoded once, by several processes, into arrays on disk; an interrupted build is resumed.

A folder holds, all in the order of the given paths:
    pixels.npy       uint8   [N, size, size, C]             the view
    crops.npy        uint8   [N, crops - 1, size, size, C]  its other native crops, where view.crops asks for some
    handcrafted.npy  float32 [N, F]                         see src.data.handcrafted
    phash.npy        uint64  [N]                            perceptual hash of the view's luma
    digests.npy      uint8   [N, 16]                        first half of the file's SHA-256; zeros where it is absent
    problems.json    written last: which photos are unreadable and why
"""

import contextlib
import json
import os
import stat
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from src.base.files import digest_of, naming, read_json, write_json, write_text
from src.base.worker_pool import worker_pool
from src.data.handcrafted import NAMES
from src.data.image import DIGEST_BYTES, load_photo
from src.settings.schema import ViewSettings

CHUNK = 64
"""Photos decoded and written at once."""
VERSION = 2
"""Raise when the same photo would give other numbers than before."""
_SYNC_EVERY = 4
"""Chunks between two entries into the journal: what a killed run does again."""

Done = dict[int, dict[int, str]]
"""Finished chunks, by their first row, with the problems of their unreadable photos by row."""


@dataclass(frozen=True)
class _Job:
    """The whole build, as every worker knows it."""

    folder: str
    root: str
    paths: tuple[str, ...]
    view: ViewSettings


_job: _Job | None = None


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


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
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
        file.write(rows.tobytes())


def _do_chunk(begin: int) -> tuple[int, dict[int, str]]:
    """Decode one chunk and write its rows; the answer names the chunk and its unreadable photos."""
    assert _job is not None
    photos = [load_photo(Path(_job.root, path), _job.view) for path in _job.paths[begin : begin + CHUNK]]
    for name, (dtype, _) in _shapes(_job.view, 0).items():
        rows = np.stack([np.asarray(getattr(photo, name.removesuffix(".npy")), dtype) for photo in photos])
        _write(Path(_job.folder, name), begin, rows)
    return begin, {begin + i: photo.problem for i, photo in enumerate(photos) if photo.problem is not None}


def _state(path: Path) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None


def _key(root: Path, paths: Sequence[str], view: ViewSettings) -> str:
    photos = [[path, _state(root / path)] for path in paths]
    return digest_of([VERSION, CHUNK, asdict(view), NAMES, photos])


def _write_journal(journal: Path, key: str, done: Done) -> None:
    """A whole journal; a resumed run begins with it, so that it does not write on behind a torn line."""
    entries = [{"key": key}, *({"begin": begin, "problems": problems} for begin, problems in done.items())]
    write_text(journal, "".join(json.dumps(entry) + "\n" for entry in entries))


def _read_journal(journal: Path, key: str) -> Done | None:
    """The finished chunks; None where the journal is of another build. A torn last line is ignored."""
    try:
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
        entries = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return None
    if not entries or entries[0] != {"key": key}:
        return None
    return {e["begin"]: {int(row): reason for row, reason in e["problems"].items()} for e in entries[1:]}


def _sync(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        with naming(folder / name), open(folder / name, "rb") as file:
            os.fdatasync(file.fileno())


def _in_processes(job: _Job, chunks: list[int], processes: int) -> Generator[tuple[int, dict[int, str]], None, None]:
    """Finished chunks as they come. The queue is kept short so that an interruption is answered quickly."""
    workers = min(processes, len(chunks))
    with worker_pool(workers, "decodes photos", _start_worker, job) as pool:
        todo = iter(chunks)
        running: set[Future] = set()
        while True:
            while len(running) < 2 * workers and (begin := next(todo, None)) is not None:
                running.add(pool.submit(_do_chunk, begin))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _in_this_process(job: _Job, chunks: list[int]) -> Generator[tuple[int, dict[int, str]], None, None]:
    global _job
    previous, _job = _job, job
    try:
        yield from map(_do_chunk, chunks)
    finally:
        _job = previous


def _run(job: _Job, journal: Path, done: Done, processes: int, progress: bool) -> None:
    """Do the chunks that `done` lacks and add them to it and to the journal."""
    chunks = [begin for begin in range(0, len(job.paths), CHUNK) if begin not in done]
    names = list(_shapes(job.view, 0))
    finished = sum(min(CHUNK, len(job.paths) - begin) for begin in done)
    waiting: Done = {}
    results = _in_processes(job, chunks, processes) if processes > 1 else _in_this_process(job, chunks)
    with (
        contextlib.closing(results),
        open(journal, "a", encoding="utf-8") as file,
        tqdm(total=len(job.paths), initial=finished, desc="decode", unit=" photos", disable=not progress) as bar,
    ):

        def enter() -> None:
            """Only what has reached the disk is entered, so that not even a power cut leaves a false entry."""
            _sync(Path(job.folder), names)
            entries = ({"begin": begin, "problems": problems} for begin, problems in waiting.items())
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
            file.flush()
            waiting.clear()

        for begin, problems in results:
            done[begin] = problems
            waiting[begin] = problems
            bar.update(min(CHUNK, len(job.paths) - begin))
            if len(waiting) >= _SYNC_EVERY:
                enter()
        enter()


def _finished(folder: Path, key: str, names: Sequence[str]) -> dict[int, str] | None:
    """The problems of a complete build with this key, else None."""
    if not all((folder / name).exists() for name in ("problems.json", *names)):
        return None
    content = read_json(folder / "problems.json")
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    return {int(row): reason for row, reason in content["problems"].items()}


def build_pixel_cache(
    folder: Path, root: Path, paths: Sequence[str], view: ViewSettings, processes: int, progress: bool
) -> list[str | None]:
    """Decode the photos `root`/`paths` into the arrays named above, in `folder`.

    Returns for each photo None, or the reason why it is unreadable; such a photo is black. An interrupted build is
    resumed, and the files are the same bytes; with other arguments, or where the size or time of a photo has changed,
    it starts over; a complete one returns at once. One process at a time may build a folder: the caller holds its lock.
    processes: 1 decodes in this process.
    Raises InputError where a decoding process is killed, OSError where the disk is full.
    """
    folder, root = Path(folder), Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(view, len(paths))
    key = _key(root, paths, view)
    problems = _finished(folder, key, list(shapes))
    if problems is None:
        journal = folder / "journal.jsonl"
        done = _read_journal(journal, key)
        if done is None or not all((folder / name).exists() for name in shapes):
            journal.unlink(missing_ok=True)
            (folder / "problems.json").unlink(missing_ok=True)
            for name, (dtype, shape) in shapes.items():
                _create(folder / name, dtype, shape)
            done = {}
        _write_journal(journal, key, done)
        _run(_Job(str(folder), str(root), tuple(paths), view), journal, done, processes, progress)
        problems = {row: reason for begin in sorted(done) for row, reason in sorted(done[begin].items())}
        write_json(folder / "problems.json", {"key": key, "problems": problems})
        journal.unlink()
    return [problems.get(row) for row in range(len(paths))]

"""Photos decoded once, by several processes, into arrays on disk; what a killed run has done stays done.

A folder holds, all in the order of the given paths:
    pixels.npy    uint8   [N, size, size, C]  the view
    crops.npy     uint8   [N, crops - 1, size, size, C]  its other pieces, where view.crops asks for some
    handcrafted.npy  float32 [N, F]              see src.data.handcrafted
    phash.npy     uint64  [N]                 perceptual hash of the view's luma
    digests.npy   uint8   [N, 16]             first half of SHA-256 of the photo file; zeros for a file that is absent
    problems.json                             written last: which photos are unreadable and why
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from src.base.errors import InputError
from src.base.files import digest_of, naming, read_json, write_json, write_text
from src.data.handcrafted import NAMES
from src.data.image import DIGEST_BYTES, Photo, load_photo
from src.settings.schema import ViewSettings

CHUNK = 64
"""Photos decoded and written at once."""
VERSION = 2
"""Raise when the same photo would give other numbers than before."""
_SYNC_EVERY = 4
"""Chunks between two entries into the journal: what a killed run does again."""


@dataclass(frozen=True)
class _Work:
    """What a worker needs to know: one for the whole build."""

    folder: str
    root: str
    paths: tuple[str, ...]
    view: ViewSettings


_work: _Work | None = None


def _shapes(view: ViewSettings, photos: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    channels = 1 if view.color == "gray" else 3
    several = {"crops.npy": (np.dtype(np.uint8), (photos, view.crops - 1, view.size, view.size, channels))}
    return (several if view.crops > 1 else {}) | {
        "pixels.npy": (np.dtype(np.uint8), (photos, view.size, view.size, channels)),
        "handcrafted.npy": (np.dtype(np.float32), (photos, len(NAMES))),
        "phash.npy": (np.dtype(np.uint64), (photos,)),
        "digests.npy": (np.dtype(np.uint8), (photos, DIGEST_BYTES)),
    }


def _create(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """A file of zeros that numpy can map. A new file, so that a worker that outlived its parent writes elsewhere."""
    path.unlink(missing_ok=True)
    with naming(path):
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _watch_parent() -> None:
    """End this process when its parent has died, whatever it is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _start_worker(work: _Work) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    # Freeing one large block teaches glibc to keep smaller ones: without it each picture is mapped, faulted in page
    # by page and unmapped again, which doubles the time of the features.
    bytes(30 << 20)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _write(path: Path, begin: int, rows: np.ndarray) -> None:
    """Rows into their place in an array file, through the page cache and not through a map of the whole."""
    with naming(path), open(path, "r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(file.tell() + begin * rows[0].nbytes)
        file.write(rows.tobytes())


def _do_chunk(begin: int) -> tuple[int, dict[int, str]]:
    """Decode one chunk and write its rows; the answer names the chunk and its unreadable photos."""
    assert _work is not None
    photos: list[Photo] = [
        load_photo(Path(_work.root, path), _work.view) for path in _work.paths[begin : begin + CHUNK]
    ]
    for name, (dtype, _) in _shapes(_work.view, 0).items():
        rows = np.stack([np.asarray(getattr(photo, name.removesuffix(".npy")), dtype) for photo in photos])
        _write(Path(_work.folder, name), begin, rows)
    return begin, {begin + i: photo.problem for i, photo in enumerate(photos) if photo.problem is not None}


def _state(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None


def _key(root: Path, paths: Sequence[str], view: ViewSettings) -> str:
    photos = [[path, _state(root / path)] for path in paths]
    return digest_of([VERSION, CHUNK, asdict(view), NAMES, photos])


def _write_journal(journal: Path, key: str, done: dict[int, dict[int, str]]) -> None:
    """A whole journal; a resumed run begins with it, so that it does not write on behind a torn line."""
    entries = [{"key": key}, *({"begin": begin, "problems": found} for begin, found in done.items())]
    write_text(journal, "".join(json.dumps(entry) + "\n" for entry in entries))


def _read_journal(journal: Path, key: str) -> dict[int, dict[int, str]] | None:
    """Finished chunks with their problems; None where the journal is of other work. A torn last line is ignored."""
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


def _results(work: _Work, chunks: list[int], processes: int) -> Iterator[tuple[int, dict[int, str]]]:
    """Finished chunks as they come. The queue is kept short so that an interruption is answered quickly."""
    context = multiprocessing.get_context("spawn")
    workers = min(processes, len(chunks))
    with ProcessPoolExecutor(workers, context, _start_worker, (work,)) as pool:
        todo = iter(chunks)
        running: set[Future] = set()
        try:
            while True:
                while len(running) < 2 * workers and (begin := next(todo, None)) is not None:
                    running.add(pool.submit(_do_chunk, begin))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise InputError(
                "a process that decodes photos was ended from outside, often because memory ran out; "
                "run the same command again, it goes on from there"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _serial(work: _Work, chunks: list[int]) -> Iterator[tuple[int, dict[int, str]]]:
    global _work
    previous, _work = _work, work
    try:
        yield from map(_do_chunk, chunks)
    finally:
        _work = previous


def _run(work: _Work, journal: Path, done: dict[int, dict[int, str]], processes: int, progress: bool) -> None:
    """Do the chunks that `done` lacks and add them to it and to the journal."""
    chunks = [begin for begin in range(0, len(work.paths), CHUNK) if begin not in done]
    names = list(_shapes(work.view, 0))
    finished = sum(min(CHUNK, len(work.paths) - begin) for begin in done)
    waiting: list[tuple[int, dict[int, str]]] = []
    with (
        contextlib.closing(_results(work, chunks, processes) if processes > 1 else _serial(work, chunks)) as results,
        open(journal, "a", encoding="utf-8") as file,
        tqdm(total=len(work.paths), initial=finished, desc="decode", unit=" photos", disable=not progress) as bar,
    ):

        def enter() -> None:
            """Only what has reached the disk is entered, so that not even a power cut leaves a false entry."""
            _sync(Path(work.folder), names)
            file.writelines(json.dumps({"begin": begin, "problems": found}) + "\n" for begin, found in waiting)
            file.flush()
            waiting.clear()

        for begin, problems in results:
            done[begin] = problems
            waiting.append((begin, problems))
            bar.update(min(CHUNK, len(work.paths) - begin))
            if len(waiting) >= _SYNC_EVERY:
                enter()
        enter()


def _finished(folder: Path, key: str, names: Sequence[str]) -> dict[int, str] | None:
    """Problems of a complete build with this key, else None."""
    if not all((folder / name).exists() for name in ("problems.json", *names)):
        return None
    content = read_json(folder / "problems.json")
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    return {int(row): reason for row, reason in content["problems"].items()}


def build_pixel_cache(
    folder: Path, root: Path, paths: Sequence[str], view: ViewSettings, processes: int, progress: bool
) -> list[str | None]:
    """Decode the photos `root`/`paths` into the arrays named above, under `folder`.

    Returns for each photo None, or the reason why it is unreadable; such a photo's row is black. Called again after
    it was cut off at any moment it goes on, and the files are the same bytes; with other arguments, or with photos
    whose size or time has changed, it starts over; when nothing is left to do it returns at once. One process at a
    time may build a folder: the caller holds its lock. processes: 1 decodes in this process.
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
        _run(_Work(str(folder), str(root), tuple(paths), view), journal, done, processes, progress)
        problems = {row: reason for begin in sorted(done) for row, reason in sorted(done[begin].items())}
        write_json(folder / "problems.json", {"key": key, "problems": problems})
        journal.unlink()
    return [problems.get(row) for row in range(len(paths))]

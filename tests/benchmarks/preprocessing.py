"""Decoding with two processes, their start and all that the stage computes included, against a plain PIL loop, and
against two processes that only decode the JPEGs, at the same reduced scale."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from src.data.handcrafted import DECODED_SHORT_SIDE
from src.data.pixel_cache import build_pixel_cache
from src.data.view import needed_short_side
from src.settings.schema import ViewSettings

CASES = (((720, 480), 128, 3000), ((4000, 3000), 224, 300))
ROUNDS = 3


def _photos(root: Path, size: tuple[int, int], count: int) -> list[str]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 36, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    photo = (photo + rng.normal(0, 6, photo.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(photo).save(root / "0.jpg", quality=88)
    for i in range(1, count):
        (root / f"{i}.jpg").write_bytes((root / "0.jpg").read_bytes())
    return [f"{i}.jpg" for i in range(count)]


def _plain(root: Path, names: list[str], side: int) -> None:
    out = np.empty((len(names), side, side, 3), np.uint8)
    for i, name in enumerate(names):
        with Image.open(root / name) as photo:
            out[i] = np.asarray(photo.convert("RGB").resize((side, side)))


def _decode(path: Path, short_side: int) -> None:
    with Image.open(path) as photo:
        photo.draft(None, (short_side, short_side))
        photo.load()


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and those of the processors in this process and in those that it started and saw end."""

    def used() -> float:
        users = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(user.ru_utime + user.ru_stime for user in users)

    began, before = time.perf_counter(), used()
    work()
    return time.perf_counter() - began, used() - before


def _decode_only(root: Path, names: list[str], short_side: int) -> tuple[float, float]:
    """Seconds, as above, of two started processes."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(abs, range(8), chunksize=1)
        work = partial(_decode, short_side=short_side)
        began = time.perf_counter()
        pool.map(work, [root / name for name in names], chunksize=8)
        took = time.perf_counter() - began
    return took, _seconds(lambda: [work(root / name) for name in names])[1]


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for the same photos: medians of rounds taken in turn; on the clock, and those of the processors."""
    for size, side, count in CASES:
        view = ViewSettings(size=side)
        ours, plain, limit = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            names = _photos(root, size, count)
            for number in range(ROUNDS):
                build = partial(build_pixel_cache, root / f"out{number}", root, names, view, 2, False)
                ours.append(_seconds(build))
                plain.append(_seconds(partial(_plain, root, names, side)))
                limit.append(_decode_only(root, names, needed_short_side(view, DECODED_SHORT_SIDE)))
        what = f"decode {count} JPEGs of {size[0]}x{size[1]} to {side}, 2 processes"
        for name, others in (("PIL open, convert, resize", plain), ("JPEG decoding alone, 2 processes", limit)):
            clock, processors = (tuple(median(times[i] for times in each) for each in (ours, others)) for i in (0, 1))
            yield what, *clock, name
            yield "  the same, seconds of the processors", *processors, name

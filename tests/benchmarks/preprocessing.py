"""Decoding with two processes, their start and all that the stage computes included, against a plain PIL loop."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from src.data.pixel_cache import build_pixel_cache
from src.settings.schema import ViewSettings

CASES = (((720, 480), 128, 3000), ((4000, 3000), 224, 100))
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


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for the same photos: medians of rounds taken in turn."""
    for size, side, count in CASES:
        ours, plain = [], []
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            names = _photos(root, size, count)
            for number in range(ROUNDS):
                began = time.perf_counter()
                build_pixel_cache(
                    root / f"out{number}", root, names, ViewSettings(size=side), processes=2, progress=False
                )
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                _plain(root, names, side)
                plain.append(time.perf_counter() - began)
        name = f"decode {count} JPEGs of {size[0]}x{size[1]} to {side}, 2 processes"
        yield name, median(ours), median(plain), "PIL open, convert, resize"

"""The embedded demo competition: a data folder in the competition's own layout, made in seconds from a seed.

`make_competition` writes train.csv, test.csv, sample_submission.csv, the photos, and test_labels.csv, which a real
competition would keep secret.
"""

import string
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from src.base.csv_files import write_csv
from src.base.files import fresh_folder
from src.base.machine import usable_processes
from src.base.randomness import fold_in
from src.base.worker_pool import worker_pool
from src.demo.comments import write_comments
from src.demo.distortions import Distortion, distort, draw_distortions
from src.demo.rating import expected_score, level, mean_opinion_score, panel
from src.demo.sources import Source, assign, render

# close to the 128 pixels at which the demo trains, so that squashing hides neither noise nor blur
_SIZES = ((128, 128), (128, 144), (128, 160), (136, 160), (144, 128), (160, 128), (128, 168), (136, 152))
_JPEG_QUALITY = 95
_APPEAL, _APPEAL_SPREAD, _GROUP_SPREAD = 7.6, 0.45, 0.3
_SHARE_OF_REPEATED_ROWS = 0.005
_FEW_PHOTOS = 200


@dataclass(frozen=True)
class Photo:
    """What is drawn at random for a photo before its pixels are. size: height and width in pixels."""

    part: str
    name: str
    source: Source
    size: tuple[int, int]
    distortions: tuple[Distortion, ...]
    mos: float
    comments: tuple[str, ...]
    seed: int


def _names(count: int, taken: set[str], rng: np.random.Generator) -> list[str]:
    """New random names of lower-case letters and digits, one of them of digits only and led by a zero."""
    letters, digits = list(string.ascii_lowercase + string.digits), list(string.digits)
    names: dict[str, None] = {}
    while len(names) < count:
        name = "".join(rng.choice(letters, 10) if names else ["0", *rng.choice(digits, 9)])
        if name not in taken:
            names[name] = None
    return [list(names)[index] for index in rng.permutation(count)]


def _photo(part: str, name: str, source: Source, seed: int, biases: np.ndarray) -> Photo:
    rng = np.random.default_rng(fold_in(seed, "demo", "photo", part, name))
    group_rng = np.random.default_rng(fold_in(seed, "demo", "appeal", source.group))
    size = _SIZES[rng.integers(len(_SIZES))]
    distortions = tuple(sorted(draw_distortions(rng), key=lambda item: -item.impairment))
    appeal = _APPEAL + group_rng.normal(0.0, _GROUP_SPREAD) + rng.normal(0.0, _APPEAL_SPREAD)
    mos = mean_opinion_score(expected_score(appeal, distortions), biases, rng)
    faults = [(distortion.kind, level(distortion)) for distortion in distortions]
    comments = write_comments(source.noun, faults, rng)
    return Photo(part, name, source, size, distortions, mos, comments, seed)


def plan(seed: int, train: int, test: int) -> list[Photo]:
    """The plan of every photo, training photos first; names, order and labels are independent of each other."""
    biases = panel(seed)
    rng = np.random.default_rng(fold_in(seed, "demo", "plan"))
    names = {"train": _names(train, set(), rng)}
    names["test"] = _names(test, set(names["train"]), rng)
    return [
        _photo(part, name, source, seed, biases)
        for part, count in (("train", train), ("test", test))
        for name, source in zip(names[part], assign(part, count, rng), strict=True)
    ]


def draw(photo: Photo) -> np.ndarray:
    """The distorted photo, uint8 RGB [H, W, 3]: the same at every call."""
    rng = np.random.default_rng(fold_in(photo.seed, "demo", "pixels", photo.part, photo.name))
    clean = render(photo.source, photo.seed, rng, *photo.size)
    return distort(clean, photo.distortions, rng)


def _save(folder: Path, photo: Photo) -> None:
    path = folder / photo.part / f"{photo.name}.jpg"
    Image.fromarray(draw(photo)).save(path, quality=_JPEG_QUALITY, subsampling=0)


def _write_tables(folder: Path, photos: list[Photo], rng: np.random.Generator) -> None:
    train, test = ([photo for photo in photos if photo.part == part] for part in ("train", "test"))
    path = {photo.name: f"./{photo.part}/{photo.name}.jpg" for photo in photos}
    rows = [[p.name, path[p.name], p.mos, comment, p.source.group] for p in train for comment in p.comments]
    repeated = set(rng.choice(len(rows), max(2, round(_SHARE_OF_REPEATED_ROWS * len(rows))), replace=False).tolist())
    rows = [row for index, row in enumerate(rows) for _ in range(1 + (index in repeated))]
    labels = [[p.name, p.mos, comment] for p in test for comment in p.comments]
    write_csv(folder / "train.csv", ["img_name", "img_path", "mos", "comments", "group"], rows)
    write_csv(folder / "test.csv", ["img_name", "img_path"], ([p.name, path[p.name]] for p in test))
    sample = ([p.name, 5.0, "a photo with a comment"] for p in test)
    write_csv(folder / "sample_submission.csv", ["img_name", "mos", "comments"], sample)
    write_csv(folder / "test_labels.csv", ["img_name", "mos", "comments"], labels)


def make_competition(
    root: Path, progress: bool = True, seed: int = 0, train: int = 750, test: int = 150, processes: int | None = None
) -> None:
    """Make the demo competition in the folder `root`, which appears whole or not at all.

    train, test: numbers of photos, at least 2 each; processes: as many as there are cores when not given. Equal
    seeds and sizes give equal bytes for any number of processes with the same versions of numpy, OpenCV and Pillow.
    Raises InputError where a photograph's package is not installed, or a process was killed.
    """
    photos = plan(seed, train, test)
    if processes is None:
        processes = 1 if len(photos) <= _FEW_PHOTOS else min(8, usable_processes(0.3))
    with fresh_folder(root) as folder:
        for part in ("train", "test"):
            (folder / part).mkdir()
        with (
            worker_pool(processes, "draws the demo", cv2.setNumThreads, 1) if processes > 1 else nullcontext() as pool,
            tqdm(desc="demo competition", total=len(photos), unit="photo", disable=not progress) as bar,
        ):
            save = partial(_save, folder)
            for _ in pool.map(save, photos, chunksize=16) if pool else map(save, photos):
                bar.update()
        _write_tables(folder, photos, np.random.default_rng(fold_in(seed, "demo", "tables")))

"""The layout of competition DACON 236134: train.csv and test.csv beside folders of photos."""

import math
from pathlib import Path, PurePosixPath

import pandas as pd

from src.base.csv_files import Row, read_rows
from src.base.errors import InputError
from src.base.text import finite_number
from src.data.readers.common import Listed, check_root, photo_table
from src.data.readers.photo_files import path_fault
from src.data.table import Rejection

LABELS = {"mos": "mos", "caption": "comments"}
"""For each task the column of train.csv that it learns from. A competition of one task has only one of them."""
LARGEST_MOS = 1e6
"""A score beyond it is a mistake, and would not survive single precision."""


def _parse_mos(text: str) -> float:
    """The score in a cell, NaN for a blank one. Raises ValueError with a plain reason."""
    if not text:
        return math.nan
    mos = finite_number(text)
    if mos is None:
        raise ValueError(f"mos {text[:40]!r} is not a finite number")
    if abs(mos) > LARGEST_MOS:
        raise ValueError(f"mos {text[:40]!r} is beyond ±{LARGEST_MOS:.0f}")
    return mos


class _Agreement:
    """What the rows of one file say of each photo, with the line that said it first."""

    def __init__(self, file: str):
        self.file = file
        self._first: dict[tuple[str, str], tuple[str | float, int]] = {}

    def check(self, photo_id: str, line: int, what: str, value: str | float, hint: str) -> None:
        """Raise InputError where `value`, which is not missing, contradicts that of an earlier row."""
        first, first_line = self._first.setdefault((photo_id, what), (value, line))
        if first != value:
            raise InputError(
                f"{self.file}: photo {photo_id} has two {what}: {first} (line {first_line}) and {value} (line {line})"
                f"; {hint}"
            )


def _train_photos(rows: list[Row], rejections: list[Rejection]) -> dict[str, Listed]:
    """Photos in order of first appearance, a photo's rows joined; rows that cannot be used go to `rejections`."""
    photos: dict[str, Listed] = {}
    agreement = _Agreement("train.csv")
    for row in rows:
        cells, where = {name: text.strip() for name, text in row.cells.items()}, f"train.csv, line {row.line}"
        photo_id, path, group, mos = cells["img_name"], cells["img_path"], cells.get("group", ""), math.nan
        fault = path_fault(path, "img_path") if photo_id else "img_name is blank"
        try:
            mos = _parse_mos(cells.get("mos", ""))
        except ValueError as error:
            fault = fault or str(error)
        if fault:
            rejections.append(Rejection(where, photo_id, path, fault))
            continue
        path = str(PurePosixPath(path))
        photo = photos.setdefault(photo_id, Listed(path, "train", where))
        agreement.check(photo_id, row.line, "paths", path, "each photo needs a name of its own")
        if not math.isnan(mos):
            agreement.check(photo_id, row.line, "different MOS", mos, "correct one of them")
            photo.mos = mos
        if group:
            agreement.check(photo_id, row.line, "groups", group, "correct one of them")
            photo.group = group
        photo.captions.append(cells.get("comments", ""))
    return photos


def _test_photos(rows: list[Row]) -> dict[str, Listed]:
    """Photos in order of first appearance. None is dropped: a bad path only means a fallback prediction."""
    photos: dict[str, Listed] = {}
    agreement = _Agreement("test.csv")
    for row in rows:
        photo_id, path = row.cells["img_name"].strip(), row.cells["img_path"].strip()
        path = str(PurePosixPath(path)) if path else ""
        agreement.check(photo_id, row.line, "paths", path, "each photo needs a name of its own")
        photo = photos.setdefault(photo_id, Listed(path, "test", f"test.csv, line {row.line}"))
        photo.group = photo.group or row.cells.get("group", "").strip()
    return photos


def _check_lists(train: list[Row], test: list[Row], root: Path) -> None:
    for name, rows in (("train.csv", train), ("test.csv", test)):
        if not rows:
            raise InputError(f"{root / name} lists no photo; it has a header only")
    for row in test:
        if not row.cells["img_name"].strip():
            raise InputError(f"{root / 'test.csv'}, line {row.line}: img_name is blank, so it cannot be answered")
    names = {row.cells["img_name"].strip() for row in train} - {""}
    shared = list(dict.fromkeys(name for row in test if (name := row.cells["img_name"].strip()) in names))
    if shared:
        shown = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
        raise InputError(f"{root}: {len(shared)} photos are in train.csv and in test.csv: {shown}; keep one")


def missing_column(root: Path, task: str) -> str | None:
    """The column of root/train.csv that a task, mos or caption, learns from, where it is not there; else None."""
    header = read_rows(root / "train.csv", ("img_name",))[0].cells
    return None if LABELS[task] in header else LABELS[task]


def read_dacon(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """The competition's layout: train.csv (img_name, img_path, mos, comments) and test.csv (img_name, img_path).

    train.csv may lack one of mos and comments: then all are missing. Several rows of a photo become its captions, in
    file order and each once. A blank mos or comment is missing; "null" and "n/a" are text. An extra column `group`
    names what photos show; without it each is its own group. Raises
    InputError where a file is absent, or where rows of a photo contradict each other.
    """
    check_root(root, "train.csv and test.csv")
    for name in ("train.csv", "test.csv"):
        if not (root / name).exists():
            raise InputError(
                f"{root / name} is absent; put it there (data/README.md shows the layout) or set data.root"
            )
    train = read_rows(root / "train.csv", ("img_name", "img_path"), tuple(LABELS.values()))
    test = read_rows(root / "test.csv", ("img_name", "img_path"))
    _check_lists(train, test, root)
    rejections: list[Rejection] = []
    photos = _train_photos(train, rejections) | _test_photos(test)
    return photo_table(root, photos, rejections, cell="img_path")

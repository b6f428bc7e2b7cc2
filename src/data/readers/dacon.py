"""The layout of competition DACON 236134: train.csv and test.csv beside folders of photos."""

import contextlib
import math
from pathlib import Path, PurePosixPath

import pandas as pd

from src.base.csv_files import Row, read_rows
from src.base.errors import InputError
from src.data.readers.common import Listed, check_root, path_fault, photo_table
from src.data.table import Rejection

LARGEST_MOS = 1e6
"""A score beyond it is a mistake, and would not survive single precision."""
_OWN_NAME = "each photo needs a name of its own"


def _parse_mos(text: str) -> float:
    """The score in a cell, NaN for a blank one. Raises ValueError with a plain reason."""
    if not text:
        return math.nan
    mos = math.nan
    with contextlib.suppress(ValueError):
        mos = float(text) if "_" not in text else math.nan
    if not math.isfinite(mos):
        raise ValueError(f"mos {text[:40]!r} is not a finite number")
    if abs(mos) > LARGEST_MOS:
        raise ValueError(f"mos {text[:40]!r} is beyond ±{LARGEST_MOS:.0f}")
    return mos


def _check(said: dict, file: str, row: Row, what: str, value: str | float, hint: str = "correct one of them") -> None:
    """Raise InputError where `value`, which is not missing, contradicts what an earlier row said of the same photo.

    said: what the rows of the file have said first, and on which line; `value` is added.
    """
    photo_id = row.cells["img_name"].strip()
    first, line = said.setdefault((photo_id, what), (value, row.line))
    if first != value:
        raise InputError(
            f"{file}: photo {photo_id} has two {what}: {first} (line {line}) and {value} (line {row.line}); {hint}"
        )


def _train_photos(rows: list[Row], rejections: list[Rejection]) -> dict[str, Listed]:
    """Photos in order of first appearance, a photo's rows joined; rows that cannot be used go to `rejections`."""
    photos: dict[str, Listed] = {}
    said: dict = {}
    for row in rows:
        cells, where = {name: text.strip() for name, text in row.cells.items()}, f"train.csv, line {row.line}"
        photo_id, path, group, mos = cells["img_name"], cells["img_path"], cells.get("group", ""), math.nan
        fault = path_fault(path, "img_path") if photo_id else "img_name is blank"
        try:
            mos = _parse_mos(cells["mos"])
        except ValueError as error:
            fault = fault or str(error)
        if fault:
            rejections.append(Rejection(where, photo_id, path, fault))
            continue
        path = str(PurePosixPath(path))
        photo = photos.setdefault(photo_id, Listed(path, "train", where))
        _check(said, "train.csv", row, "paths", path, _OWN_NAME)
        if not math.isnan(mos):
            _check(said, "train.csv", row, "different MOS", mos)
            photo.mos = mos
        if group:
            _check(said, "train.csv", row, "groups", group)
            photo.group = group
        photo.captions.append(cells["comments"])
    return photos


def _test_photos(rows: list[Row]) -> dict[str, Listed]:
    """Photos in order of first appearance. None is dropped: a bad path only means a fallback prediction."""
    photos: dict[str, Listed] = {}
    said: dict = {}
    for row in rows:
        photo_id, path = row.cells["img_name"].strip(), row.cells["img_path"].strip()
        _check(said, "test.csv", row, "paths", path, _OWN_NAME)
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


def read_dacon(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """The competition's layout: train.csv (img_name, img_path, mos, comments) and test.csv (img_name, img_path).

    Several rows of a photo become its captions, in file order and each once. A blank mos or comment is missing;
    "null" and "n/a" are text. An extra column `group` names what photos show; without it each is its own group.
    Raises InputError where a file is absent, or where rows of a photo contradict each other.
    """
    check_root(root, "train.csv and test.csv")
    for name in ("train.csv", "test.csv"):
        if not (root / name).exists():
            raise InputError(
                f"{root / name} is absent; put it there (data/README.md shows the layout) or set data.root"
            )
    train = read_rows(root / "train.csv", ("img_name", "img_path", "mos", "comments"))
    test = read_rows(root / "test.csv", ("img_name", "img_path"))
    _check_lists(train, test, root)
    rejections: list[Rejection] = []
    photos = _train_photos(train, rejections) | _test_photos(test)
    return photo_table(root, photos, rejections, cell="img_path")

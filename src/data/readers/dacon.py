"""The layout of competition DACON 236134: train.csv and test.csv beside folders of photos."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from src.base.csv_files import Row, read_rows
from src.base.errors import InputError
from src.data.readers.common import check_root, clean_caption, file_fault, path_fault
from src.data.table import Rejection, make_table

LARGEST_MOS = 1e6
"""A score beyond it is a mistake, and would not survive single precision."""


def parse_mos(text: str) -> float:
    """The score in a cell, NaN for a blank one. Raises ValueError with a plain reason."""
    text = text.strip()
    if not text:
        return math.nan
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"mos {text[:40]!r} is not a finite number")
    if abs(value) > LARGEST_MOS:
        raise ValueError(f"mos {text[:40]!r} is beyond ±{LARGEST_MOS:.0f}")
    return value


@dataclass
class _Photo:
    """What the rows read so far say of one photo, with the line that said it."""

    path: str
    line: int
    mos: float = math.nan
    mos_line: int = 0
    group: str = ""
    captions: dict[str, None] = field(default_factory=dict)

    def add(self, where: str, photo_id: str, path: str, mos: float, caption: str, group: str, line: int) -> None:
        """Take in one more row. Raises InputError where it contradicts an earlier one."""
        if path != self.path:
            raise InputError(f"{where}: photo {photo_id} has two paths: {self.path} (line {self.line}), {path} "
                             f"(line {line}); each photo needs a name of its own")  # fmt: skip
        if not math.isnan(mos):
            if not math.isnan(self.mos) and mos != self.mos:
                raise InputError(f"{where}: photo {photo_id} has two different MOS: {self.mos} (line {self.mos_line}) "
                                 f"and {mos} (line {line}); correct one of them")  # fmt: skip
            self.mos, self.mos_line = mos, self.mos_line or line
        if group and self.group and group != self.group:
            raise InputError(f"{where}: photo {photo_id} has two groups: {self.group} and {group} (line {line})")
        self.group = self.group or group
        if caption:
            self.captions[caption] = None


def _gather(where: str, rows: Iterable[Row], rejections: list[Rejection]) -> dict[str, _Photo]:
    """Photos in order of first appearance; rows that cannot be used go to `rejections`."""
    photos: dict[str, _Photo] = {}
    for row in rows:
        cells, place = row.cells, f"{where}, line {row.line}"
        photo_id, path = cells["img_name"].strip(), cells["img_path"].strip()
        fault = path_fault(path, "img_path") if photo_id else "img_name is blank"
        mos = math.nan
        if fault is None:
            try:
                mos = parse_mos(cells.get("mos", ""))
            except ValueError as error:
                fault = str(error)
        if fault is not None:
            rejections.append(Rejection(place, photo_id, path, fault))
            continue
        path = str(PurePosixPath(path))
        photo = photos.setdefault(photo_id, _Photo(path, row.line))
        caption, group = clean_caption(cells.get("comments", "")), cells.get("group", "").strip()
        photo.add(where, photo_id, path, mos, caption, group, row.line)
    return photos


def _check_lists(train: list[Row], test: list[Row], root: Path) -> None:
    for name, rows in (("train.csv", train), ("test.csv", test)):
        if not rows:
            raise InputError(f"{root / name} lists no photo; it has a header only")
    for row in test:
        if not row.cells["img_name"].strip():
            raise InputError(f"{root / 'test.csv'}, line {row.line}: img_name is blank, so it cannot be answered")
    names = {row.cells["img_name"].strip() for row in train} - {""}
    both = list(dict.fromkeys(name for row in test if (name := row.cells["img_name"].strip()) in names))
    if both:
        shown = ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
        raise InputError(f"{root}: {len(both)} photos stand in train.csv and in test.csv: {shown}; keep one")


def _test_row(root: Path, photo_id: str, rows: list[Row], rejections: list[Rejection]) -> tuple:
    """A test photo is never dropped: a bad path only means that it gets a fallback prediction."""
    paths = list(dict.fromkeys(row.cells["img_path"].strip() for row in rows))
    if len(paths) > 1:
        raise InputError(f"test.csv: photo {photo_id} has two paths: {paths[0]} and {paths[1]} (line {rows[1].line})")
    fault = path_fault(paths[0], "img_path")
    path = paths[0] if fault else str(PurePosixPath(paths[0]))
    fault = fault or file_fault(root, path)
    if fault:
        rejections.append(Rejection(f"test.csv, line {rows[0].line}", photo_id, path, fault))
        path = ""
    group = next((text for row in rows if (text := row.cells.get("group", "").strip())), photo_id)
    return (photo_id, path, math.nan, (), group, "test")


def dacon_files(root: Path) -> tuple[Path, Path]:
    """train.csv and test.csv of the competition's layout. Raises InputError where one is absent."""
    check_root(root, "train.csv and test.csv")
    files = (root / "train.csv", root / "test.csv")
    for file in files:
        if not file.exists():
            raise InputError(f"{file} is absent; put it there (data/README.md shows the layout) or set data.root")
    return files


def read_dacon(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """The competition's layout: train.csv (img_name, img_path, mos, comments) and test.csv (img_name, img_path).

    Several rows of a photo become its captions, in file order and each once. A blank mos or comment is missing;
    "null" and "n/a" are text. An extra column `group` names what photos show; without it each is its own group.
    """
    train_file, test_file = dacon_files(root)
    train = read_rows(train_file, ("img_name", "img_path", "mos", "comments"))
    test = read_rows(test_file, ("img_name", "img_path"))
    _check_lists(train, test, root)
    rejections: list[Rejection] = []
    table = []
    for photo_id, photo in _gather("train.csv", train, rejections).items():
        fault = file_fault(root, photo.path)
        if fault:
            rejections.append(Rejection(f"train.csv, line {photo.line}", photo_id, photo.path, fault))
        else:
            group = photo.group or photo_id
            table.append((photo_id, photo.path, photo.mos, tuple(photo.captions), group, "train"))
    by_name: dict[str, list[Row]] = {}
    for row in test:
        by_name.setdefault(row.cells["img_name"].strip(), []).append(row)
    table += [_test_row(root, photo_id, rows, rejections) for photo_id, rows in by_name.items()]
    return make_table(table), rejections

"""Readers: a dataset's own files become the one table. Nothing downstream knows where a photo came from."""

import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from src.comma_separated import Row, read_rows
from src.data.table import Rejection, make_table
from src.errors import InputError

LARGEST_MOS = 1e6
"""A score beyond it is a mistake, and would not survive single precision."""


def clean_caption(text: str) -> str:
    """One line: every run of white space (also \\r, \\x0b, U+2028) becomes one space, ends are stripped.

    The scorer's tokenizer would take some of these for the end of a caption and shift all that follow.
    """
    return " ".join(re.sub(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text).split())


def path_fault(path: str) -> str | None:
    """Why a path from a label file is refused before it is looked for; None where it is fine."""
    if not path:
        return "img_path is blank"
    if path.startswith("/") or PureWindowsPath(path).is_absolute() or PureWindowsPath(path).drive:
        return "img_path is absolute; give it relative to data.root"
    if ".." in PurePosixPath(path).parts or ".." in PureWindowsPath(path).parts:
        return "img_path climbs out of data.root with '..'"
    return None


def file_fault(root: Path, path: str) -> str | None:
    """Why there is no photo file at a path below `root`; None where there is one. Symbolic links are followed."""
    try:
        mode = os.stat(os.path.join(root, path)).st_mode
    except FileNotFoundError:
        hint = "; its folders are separated by '\\', '/' is needed" if "\\" in path else ""
        return f"no such file{hint}"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None if stat.S_ISREG(mode) else "not a file"


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
        fault = path_fault(path) if photo_id else "img_name is blank"
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
    fault = path_fault(paths[0])
    path = paths[0] if fault else str(PurePosixPath(paths[0]))
    fault = fault or file_fault(root, path)
    if fault:
        rejections.append(Rejection(f"test.csv, line {rows[0].line}", photo_id, path, fault))
        path = ""
    group = next((text for row in rows if (text := row.cells.get("group", "").strip())), photo_id)
    return (photo_id, path, math.nan, (), group, "test")


def dacon_files(root: Path) -> tuple[Path, Path]:
    """train.csv and test.csv of the competition's layout. Raises InputError where one is absent."""
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a folder; give the folder that holds train.csv and test.csv")
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


READERS: dict[str, Callable[[Path], tuple[pd.DataFrame, list[Rejection]]]] = {"dacon": read_dacon}


def read(root: Path, format: str) -> tuple[pd.DataFrame, list[Rejection]]:
    """The dataset under `root` as the one table (see src.data.table), and the rows and photos left out of it.

    The table is in file order: train photos by first appearance, then all test photos. A rejected train photo is
    not in it; a rejected test photo is, with the path "". With every train photo
    rejected the train part is empty. Raises InputError for faults that no choice of rows can mend.
    """
    if format not in READERS:
        raise InputError(f"data.format={format} is unknown; known: {', '.join(READERS)}")
    return READERS[format](Path(root))

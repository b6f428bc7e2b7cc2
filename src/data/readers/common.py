"""What the readers share: cleaning captions, and building the table from what the files list."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from src.base.errors import InputError
from src.data.readers.photo_files import PhotoFiles, path_fault
from src.data.table import Rejection, make_table

_WHITE_SPACE = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+")


def clean_caption(text: str) -> str:
    """One line: every run of white space (also \\r, \\x0b, U+2028) becomes one space, ends are stripped.

    The scorer's tokenizer would take some of these for the end of a caption and shift all that follow.
    """
    return " ".join((text if text.isprintable() else _WHITE_SPACE.sub(" ", text)).split())


def check_root(root: Path, needs: str) -> None:
    """Raise InputError where data.root is no folder. needs: what it must hold, for the message."""
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a folder; give the folder that holds {needs}")


@dataclass
class Listed:
    """A photo as the files of a data set list it. path: below data.root. where: the place that lists it, for messages.

    mos: NaN where missing. group: "" where the photo is a group of its own.
    """

    path: str
    part: str
    where: str
    captions: list[str] = field(default_factory=list)
    mos: float = math.nan
    group: str = ""


def add_photo(photos: dict[str, Listed], photo_id: str, photo: Listed) -> None:
    """Enter a photo under its id. Raises InputError where the id is taken."""
    first = photos.setdefault(photo_id, photo)
    if first is not photo:
        raise InputError(f"photo {photo_id} is in {first.where} and in {photo.where}; keep one")


def photo_table(
    root: Path, photos: dict[str, Listed], rejections: list[Rejection], cell: str = "its path"
) -> tuple[pd.DataFrame, list[Rejection]]:
    """The table of photos by id, and `rejections` with those added whose file is not there.

    Rows are those of the train part, then validation, then test, each in the given order. Captions are cleaned, and
    each is kept once a photo. A photo without a file is left out, but for a test photo: its path becomes "". cell: what
    holds a path, for messages.
    """
    rows: dict[str, list[tuple]] = {"train": [], "validation": [], "test": []}
    files = PhotoFiles(root)
    faults = {photo_id: path_fault(photo.path, cell) for photo_id, photo in photos.items()}
    located = {photo_id: files.find(photos[photo_id].path) for photo_id, fault in faults.items() if not fault}
    for photo_id, photo in photos.items():
        captions = tuple(dict.fromkeys(caption for text in photo.captions if (caption := clean_caption(text))))
        path, fault = located.get(photo_id, ("", faults[photo_id]))
        if not fault and (other := files.other_spelling(photo.path, path)):
            fault = f"no such file; {ascii(path)}, which is alike but for case or Unicode form, is {ascii(other)} too"
        if fault:
            rejections.append(Rejection(photo.where, photo_id, photo.path, fault))
        if not fault or photo.part == "test":
            path = "" if fault else path
            rows[photo.part].append((photo_id, path, photo.mos, captions, photo.group or photo_id, photo.part))
    return make_table(row for part in rows.values() for row in part), rejections


def caption_table(
    root: Path, photos: dict[str, Listed], rejections: list[Rejection], source: str
) -> tuple[pd.DataFrame, list[Rejection]]:
    """`photo_table` of a data set of captions alone. source: the label file, for messages.

    Raises InputError where there is no training photo, or no training photo with a caption.
    """
    train = [photo for photo in photos.values() if photo.part == "train"]
    if not train:
        raise InputError(f"{source} lists no photo for training; see data/README.md for the layout")
    if not any(map(clean_caption, (text for photo in train for text in photo.captions))):
        raise InputError(f"{source} holds no captions at all for the training photos; get the file again")
    return photo_table(root, photos, rejections)

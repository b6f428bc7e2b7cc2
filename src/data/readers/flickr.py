"""Flickr8k and Flickr30k in the files of their authors and of Kaggle: one caption a line, photos in one folder.

Hodosh et al., Framing Image Description as a Ranking Task, JAIR 2013; Young et al., From Image Descriptions to Visual
Denotations, TACL 2014.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from src.base.errors import InputError
from src.base.text_files import read_text
from src.data.readers.common import Listed, caption_table, check_root
from src.data.table import Rejection

FOLDERS = ("Images", "images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
"""Where photos may lie below data.root; the first that is there counts. "Flicker" is its real name."""
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
"""The official parts of Flickr8k."""
FLICKR8K = ("captions.txt", "Flickr8k.token.txt")
FLICKR30K = ("results_20130124.token", "results.csv")


@dataclass(frozen=True)
class _Format:
    """How a file of captions is written. line: has the groups name and caption, or quoted. shown: the same in words."""

    line: re.Pattern[str]
    shown: str
    has_header: bool


_TOKEN = _Format(
    re.compile(r"(?P<name>[^\t]*)#\s*\d+\s*\t(?P<caption>.*)"), "image#number, a tab, and the caption", False
)
# a caption that begins with a quotation mark is quoted as in CSV, another may hold commas
_KAGGLE_8K = re.compile(r'(?P<name>[^,]*),\s*+(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?!")(?P<caption>.*))')
FORMATS = {
    "captions.txt": _Format(_KAGGLE_8K, "image,caption", True),
    "Flickr8k.token.txt": _TOKEN,
    "results_20130124.token": _TOKEN,
    "results.csv": _Format(
        re.compile(r"(?P<name>[^|]*)\|[^|]*\|(?P<caption>.*)"), "image_name| comment_number| comment", True
    ),
}


def photo_folder(root: Path) -> str:
    """The name of the folder of photos. Raises InputError where there is none."""
    for name in FOLDERS:
        if (root / name).is_dir():
            return name
    raise InputError(f"{root} has no folder of photos; expected one of {', '.join(FOLDERS)}")


def _lines(file: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Not splitlines: U+2028 and its like may occur in a caption."""
    lines = [line.strip("\r ") for line in read_text(file).split("\n")]
    return [(line_number, line) for line_number, line in enumerate(lines, 1) if line]


def _captioned_photos(file: Path, folder: str, rejections: list[Rejection]) -> dict[str, Listed]:
    """All photos, for training, with their captions, in file order. A photo's id is its file name without suffix."""
    lines, form = _lines(file), FORMATS[file.name]
    if form.has_header:
        if not lines or lines[0][1].replace(" ", "").lower() != form.shown.replace(" ", ""):
            raise InputError(f"{file}: its first line must be the header {form.shown}")
        del lines[0]
    photos: dict[str, Listed] = {}
    for line_number, line in lines:
        match, where = form.line.fullmatch(line), f"{file.name}, line {line_number}"
        name = match["name"].strip() if match else ""
        if not match or not name:
            rejections.append(Rejection(where, "", "", f"{line[:40]!r} is not {form.shown}"))
            continue
        path = f"{folder}/{name}"
        photo = photos.setdefault(PurePosixPath(name).stem, Listed(path, "train", where))
        if photo.path != path:
            raise InputError(f"{photo.path} ({photo.where}) and {path} ({where}) differ in their suffix only")
        quoted = match.groupdict().get("quoted")
        photo.captions.append(match["caption"] if quoted is None else quoted.replace('""', '"'))
    return photos


def _official_parts(
    root: Path, photos: dict[str, Listed], source: str, folder: str, rejections: list[Rejection]
) -> dict[str, Listed]:
    """The photos of the official lists, in the given order, each in its part. Those of no list are left out."""
    listed: dict[str, Listed] = {}
    for part, name in LISTS.items():
        for line_number, line in _lines(root / name) if (root / name).exists() else []:
            photo_id, where = PurePosixPath(line).stem, f"{name}, line {line_number}"
            if photo_id in listed:
                raise InputError(f"{root}: {line} is in {listed[photo_id].where}, and in {where}; keep one")
            listed[photo_id] = Listed(f"{folder}/{line}", part, where)
            if photo_id not in photos and part != "test":
                rejections.append(Rejection(where, photo_id, line, f"it has no caption in {source}"))
    captioned = {photo_id: photo for photo_id, photo in photos.items() if photo_id in listed}
    for photo_id, photo in captioned.items():
        photo.part = listed[photo_id].part
    return captioned | {i: photo for i, photo in listed.items() if i not in photos and photo.part == "test"}


def _read(root: Path, names: tuple[str, ...]) -> tuple[pd.DataFrame, list[Rejection]]:
    """The first of the files of captions that is there."""
    check_root(root, " or ".join(names))
    file = next((root / name for name in names if (root / name).exists()), None)
    if file is None:
        raise InputError(f"{root} holds neither {' nor '.join(names)}; data/README.md shows the layout")
    folder = photo_folder(root)
    rejections: list[Rejection] = []
    photos = _captioned_photos(file, folder, rejections)
    if names == FLICKR8K and any((root / name).exists() for name in LISTS.values()):
        photos = _official_parts(root, photos, file.name, folder, rejections)
    return caption_table(root, photos, rejections, str(file))


def read_flickr8k(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """Flickr8k: captions.txt (Kaggle) or Flickr8k.token.txt, official parts where their lists are there.

    photo_id is the file name without its suffix; see registry.read_dataset. A photo that is in no official list is left
    out where there are lists. Raises InputError where no file of captions or no folder of photos is there.
    """
    return _read(root, FLICKR8K)


def read_flickr30k(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """Flickr30k: results_20130124.token or results.csv (Kaggle); it has no official parts. Else as Flickr8k."""
    return _read(root, FLICKR30K)

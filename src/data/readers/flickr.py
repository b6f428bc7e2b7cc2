"""Flickr8k and Flickr30k in the files of their authors and of Kaggle: one caption a line, photos in one folder.

Hodosh et al., Framing Image Description as a Ranking Task, JAIR 2013; Young et al., From Image Descriptions to Visual
Denotations, TACL 2014.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from src.base.csv_files import read_text
from src.base.errors import InputError
from src.data.readers.common import Listed, caption_table, check_root
from src.data.table import Rejection

FOLDERS = ("Images", "images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
"""Where photos may lie below data.root; the first that is there counts. "Flicker" is its real name."""
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def photo_folder(root: Path) -> str:
    """The name of the folder of photos. Raises InputError where there is none."""
    found = next((name for name in FOLDERS if (root / name).is_dir()), None)
    if found is None:
        raise InputError(f"{root} has no folder of photos; expected one of {', '.join(FOLDERS)}")
    return found


def _after_tab(line: str) -> tuple[str, str] | None:
    """name#number<TAB>caption"""
    numbered, tab, caption = line.partition("\t")
    name, _, number = numbered.rpartition("#")
    return (name, caption) if tab and number.strip().isdecimal() else None


def _after_comma(line: str) -> tuple[str, str] | None:
    """name,caption; a caption that begins with a quotation mark is quoted as in CSV, another may hold commas."""
    name, comma, caption = line.partition(",")
    caption = caption.strip()
    quoted = _QUOTED.fullmatch(caption)
    if quoted:
        return name, quoted[1].replace('""', '"')
    return (name, caption) if comma and not caption.startswith('"') else None


def _after_bars(line: str) -> tuple[str, str] | None:
    """name| number| caption"""
    cells = line.split("|", 2)
    return (cells[0], cells[2]) if len(cells) == 3 else None


@dataclass(frozen=True)
class _Form:
    """How a file of captions is written: its header, how a line is cut, and how to say so."""

    header: str | None
    cut: Callable[[str], tuple[str, str] | None]
    shown: str


FORMS = {
    "captions.txt": _Form("image,caption", _after_comma, "image,caption"),
    "Flickr8k.token.txt": _Form(None, _after_tab, "image#number, a tab, and the caption"),
    "results_20130124.token": _Form(None, _after_tab, "image#number, a tab, and the caption"),
    "results.csv": _Form("image_name| comment_number| comment", _after_bars, "image_name| comment_number| comment"),
}


def _lines(file: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Not splitlines: U+2028 and its like may stand in a caption."""
    lines = [line.strip("\r ") for line in read_text(file).split("\n")]
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def _gather(file: Path, form: _Form, folder: str, rejections: list[Rejection]) -> dict[str, Listed]:
    """All photos, for training, with their captions, in file order. A photo's id is its file name without ending."""
    lines = _lines(file)
    if form.header is not None:
        if not lines or lines[0][1].replace(" ", "").lower() != form.header.replace(" ", ""):
            raise InputError(f"{file}: its first line must be the header {form.header}")
        del lines[0]
    photos: dict[str, Listed] = {}
    for number, line in lines:
        name, caption = form.cut(line) or ("", "")
        name, where = name.strip(), f"{file.name}, line {number}"
        if not name:
            rejections.append(Rejection(where, "", "", f"{line[:40]!r} is not {form.shown}"))
            continue
        photo = photos.setdefault(PurePosixPath(name).stem, Listed(f"{folder}/{name}", "train", where))
        if photo.path != f"{folder}/{name}":
            raise InputError(f"{photo.path} ({photo.where}) and {folder}/{name} ({where}) differ in their ending only")
        photo.captions.append(caption)
    return photos


def _official(
    root: Path, photos: dict[str, Listed], file: Path, folder: str, rejections: list[Rejection]
) -> dict[str, Listed]:
    """The photos of the official lists, in the given order, each in its part. Those of no list are left out."""
    parts: dict[str, Listed] = {}
    for part, name in LISTS.items():
        for number, line in _lines(root / name) if (root / name).exists() else []:
            photo_id, where = PurePosixPath(line.strip()).stem, f"{name}, line {number}"
            if photo_id in parts:
                raise InputError(f"{root}: {line} stands in {parts[photo_id].where}, and in {where}; keep one")
            parts[photo_id] = Listed(f"{folder}/{line.strip()}", part, where)
            if photo_id not in photos and part != "test":
                rejections.append(Rejection(where, photo_id, line.strip(), f"it has no caption in {file.name}"))
    known = {i: Listed(photo.path, parts[i].part, photo.where, photo.captions) for i, photo in photos.items()
             if i in parts}  # fmt: skip
    return known | {i: photo for i, photo in parts.items() if i not in photos and photo.part == "test"}


def _read(root: Path, names: tuple[str, ...]) -> tuple[pd.DataFrame, list[Rejection]]:
    """The first of the files of captions that is there."""
    check_root(root, " or ".join(names))
    file = next((root / name for name in names if (root / name).exists()), None)
    if file is None:
        raise InputError(f"{root} holds neither {' nor '.join(names)}; data/README.md shows the layout")
    folder, rejections = photo_folder(root), []
    photos = _gather(file, FORMS[file.name], folder, rejections)
    if names == FLICKR8K and any((root / name).exists() for name in LISTS.values()):
        photos = _official(root, photos, file, folder, rejections)
    return caption_table(root, photos, rejections, str(file))


FLICKR8K = ("captions.txt", "Flickr8k.token.txt")
FLICKR30K = ("results_20130124.token", "results.csv")


def read_flickr8k(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """Flickr8k: captions.txt (Kaggle) or Flickr8k.token.txt, official parts where their lists are there.

    photo_id is the file name without its ending; see registry.read. A photo that is in no official list is
    left out where there are lists. Raises InputError where no file of captions or no folder of photos is there.
    """
    return _read(root, FLICKR8K)


def read_flickr30k(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """Flickr30k: results_20130124.token or results.csv (Kaggle); it has no official parts. Else as Flickr8k."""
    return _read(root, FLICKR30K)

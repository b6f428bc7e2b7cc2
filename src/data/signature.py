"""Has the input changed? A quick key of a dataset, from file sizes and times; standard library only."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from src.data.comma_separated import read_rows
from src.errors import InputError
from src.files import digest, file_digest


def dacon_files(root: Path) -> tuple[Path, Path]:
    """train.csv and test.csv of the competition's layout. Raises InputError where one is absent."""
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a folder; give the folder that holds train.csv and test.csv")
    files = (root / "train.csv", root / "test.csv")
    for file in files:
        if not file.exists():
            raise InputError(f"{file} is absent; put it there (data/README.md shows the layout) or set data.root")
    return files


def _dacon_photos(root: Path) -> tuple[Iterable[Path], Iterable[str]]:
    files = dacon_files(root)
    return files, (row.cells["img_path"] for file in files for row in read_rows(file, ("img_name", "img_path")))


_LAYOUTS: dict[str, Callable[[Path], tuple[Iterable[Path], Iterable[str]]]] = {"dacon": _dacon_photos}


def _state(root: str, path: str) -> str:
    try:
        found = os.stat(os.path.join(root, path.strip()))
    except (OSError, ValueError):
        return f"{path}\tabsent"
    return f"{path}\t{found.st_size}\t{found.st_mtime_ns}"


def signature(root: Path, format: str) -> str:
    """A hex key that changes when a label file's content or a photo's size or modification time does.

    Raises InputError where the label files cannot be read. Takes about half a second for 67,000 photos.
    """
    labels, photos = _LAYOUTS[format](Path(root))
    lines = [f"{file.name}\t{file_digest(file)}" for file in labels]
    lines += [_state(os.fspath(root), path) for path in dict.fromkeys(photos)]
    return digest("\n".join([format, *lines]))

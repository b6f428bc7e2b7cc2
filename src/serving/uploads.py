"""What strangers upload: photos, and archives of photos, of which nothing stays on the disk."""

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from src.base.errors import InputError
from src.base.text import one_line

MEGABYTES = 200
"""Largest upload."""
UNPACKED_MEGABYTES = 2000
"""Of an archive's photos together."""
PHOTOS = 5000
"""In one archive or folder."""
_MEMBER_MEGABYTES = 100


@contextlib.contextmanager
def removed(paths: Sequence[Path]) -> Iterator[None]:
    """Remove uploaded files when the block ends, however it does."""
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def photos_of(uploads: Sequence[Path], folder: Path) -> tuple[list[Path], list[str]]:
    """The uploaded files, and instead of an archive what is in it, unpacked into `folder`; the files and their names.

    Raises InputError for an archive that cannot be read or is too large, and for one with a name that leads out of it.
    """
    paths, names = [], []
    for place, upload in enumerate(uploads):
        if zipfile.is_zipfile(upload):
            unpacked, within = _unpack(upload, folder, f"{place}-")
            paths += unpacked
            names += within
        else:
            paths.append(upload)
            names.append(upload.name)
    if len(paths) > PHOTOS:
        raise InputError(f"{len(paths)} photos are more than the {PHOTOS} that are taken at a time; upload fewer")
    return paths, names


def _unpack(upload: Path, folder: Path, prefix: str) -> tuple[list[Path], list[str]]:
    paths: list[Path] = []
    names, room = [], UNPACKED_MEGABYTES << 20
    try:
        with zipfile.ZipFile(upload) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            members = [member for member in members if not member.filename.startswith("__MACOSX/")]
            for member in members:
                inside = PurePosixPath(member.filename.replace("\\", "/"))
                if inside.is_absolute() or ".." in inside.parts or not inside.parts or ":" in inside.parts[0]:
                    raise InputError(
                        f"{one_line(member.filename)}: this name leads out of the archive; nothing was read"
                    )
            for member in members[: PHOTOS + 1]:
                limit = min(_MEMBER_MEGABYTES << 20, room)
                with archive.open(member) as file:  # what the archive says of the size may be a lie
                    content = file.read(limit + 1)
                if len(content) > limit:
                    raise InputError(f"{one_line(member.filename)}: the archive holds more than can be taken at a time")
                room -= len(content)
                paths.append(folder / f"{prefix}{len(paths):06d}")  # never its own name
                paths[-1].write_bytes(content)
                names.append(member.filename)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"the archive cannot be read: {one_line(str(error))}") from None
    return paths, names

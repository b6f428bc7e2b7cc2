"""Strict reading of a text file that the user gave: every fault of the file itself is one clear line."""

import errno
from pathlib import Path

from src.base.errors import InputError


def file_content(path: Path) -> bytes:
    """The bytes of a file that the user gave.

    Raises OSError, also for a pipe or device among the files, of which reading may never end. One in /dev or /proc,
    such as /dev/stdin, is given on purpose.
    """
    endless = path.exists() and not path.is_file() and not path.is_dir()
    if endless and path.absolute().parts[1] not in ("dev", "proc"):
        raise OSError(errno.EINVAL, "a pipe or device in place of a file", str(path))
    return path.read_bytes()


def read_text(path: Path, kind: str = "text") -> str:
    """The file's text, which must be UTF-8 with or without a byte order mark. Raises InputError."""
    try:
        content = file_content(path)
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, expected a {kind} file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path and who may read it") from None
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: a NUL byte; damaged, or not UTF-8 (UTF-16?): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte {content[error.start]:#04x} at position {error.start}); "
            "save it as UTF-8"
        ) from None

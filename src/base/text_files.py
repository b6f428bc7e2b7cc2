"""Strict reading of a text file that the user gave: every fault of the file itself is one clear line."""

from pathlib import Path

from src.base.errors import InputError


def read_text(path: Path, kind: str = "text") -> str:
    """The file's text, which must be UTF-8 with or without a byte order mark. Raises InputError."""
    try:
        content = path.read_bytes()
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

"""Files that are whole or absent, JSON, and hashes."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.machine import process_exists


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from the block names `path` where it names none, as on a full disk, or a temporary one beside it."""
    try:
        yield
    except OSError as error:
        named = os.path.basename(error.filename or "")
        if error.errno is not None and (not named or named.startswith(f".{path.name}.")):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with open(temporary, "r+b") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def existing_folder(path: Path) -> Path:
    """The path itself where it exists, else the nearest of its parents that does; its drive where none does."""
    whole = Path(path).absolute()
    return next((folder for folder in (whole, *whole.parents) if folder.exists()), Path(whole.anchor))


def require_writable(folder: Path, setting: str) -> None:
    """Raise InputError where no file can be made in the folder, which may be absent; `setting` chooses another."""
    place = existing_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        reason = "a file is where a folder is needed" if place.is_file() else error.strerror
        where = f"{folder} cannot be written ({place}: {reason})"
        raise InputError(f"{where}; choose another place with {setting}=FOLDER") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_if_different(path: Path, content: bytes) -> None:
    """Write a whole file or none; one that holds the same stays as it is, with its time."""
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError where it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); remove it and run again") from None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes were killed."""
    for leftover in Path(folder).glob(".*.tmp"):
        process = leftover.name.split(".")[-2]
        if leftover.is_file() and process.isdecimal() and not process_exists(int(process)):
            leftover.unlink(missing_ok=True)


def digest(content: bytes | str) -> str:
    """SHA-256 of bytes or text, in hex."""
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place once the block has succeeded."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.new.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)

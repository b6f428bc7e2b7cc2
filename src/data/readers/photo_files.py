"""Finding the photo files that a table's paths mean, on whatever system the paths were written."""

import os
import posixpath
import stat
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from src.base.spelling import caseless, look

_ABSENT = "no such file"


def path_fault(path: str, cell: str) -> str | None:
    """Why a path from a label file is refused before it is looked for; None where it is fine. cell: what holds it."""
    if not path:
        return f"{cell} is blank"
    windows = ":" in path or path.startswith("\\")
    if path.startswith("/") or windows and (PureWindowsPath(path).is_absolute() or PureWindowsPath(path).drive):
        return f"{cell} is absolute; give it relative to data.root"
    if ".." in path.replace("\\", "/").split("/"):
        return f"{cell} climbs out of data.root with '..'"
    return None


def _turned(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/").lstrip("/"))


class PhotoFiles:
    """The files below a folder, each of whose folders is listed once where a path is not found as it stands."""

    def __init__(self, root: Path):
        self._root = root
        self._entries: dict[tuple[str, Callable[[str], str]], dict[str, list[str]]] = {}
        self._spellings: dict[str, set[str]] = {}

    def find(self, path: str) -> tuple[str, str | None]:
        """The file that a path means, below the folder, and why there is none; symbolic links are followed.

        The file of that very name, else that with Windows' separators turned, else the only one that differs in case
        or Unicode form. path: one that `path_fault` lets pass.
        """
        turned = _turned(path)
        for file in dict.fromkeys((posixpath.normpath(path), turned)):
            if (fault := self._fault(file)) != _ABSENT:
                self._spellings.setdefault(file, set()).add(file)
                return file, fault
        alike = self._matches(turned, caseless)
        if len(alike) == 1:
            self._spellings.setdefault(alike[0], set()).add(turned)
            return alike[0], None
        if alike:
            files = " and ".join(map(ascii, alike[:2]))
            return turned, f"{_ABSENT}; {files} differ from it in case or Unicode form: name one of them"
        similar = self._matches(turned, look)
        return turned, f"{_ABSENT}; did you mean {ascii(similar[0])}?" if similar else _ABSENT

    def other_spelling(self, path: str, file: str) -> str | None:
        """Another spelling by which a file was found, where `path` is not its very name; None where it is the only one.

        To be asked once all paths were looked for.
        """
        spellings = {posixpath.normpath(path), _turned(path)}
        return None if file in spellings else min(self._spellings.get(file, spellings) - spellings, default=None)

    def _fault(self, path: str) -> str | None:
        try:
            mode = os.stat(os.path.join(self._root, path)).st_mode
        except FileNotFoundError:
            return _ABSENT
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)
        return None if stat.S_ISREG(mode) else "not a file"

    def _matches(self, path: str, key: Callable[[str], str]) -> list[str]:
        """All files whose folders and name have the same key as those of a path."""
        files = [""]
        for part in path.split("/"):
            files = [
                posixpath.join(folder, entry)
                for folder in files
                for entry in self._listing(folder, key).get(key(part), ())
            ]
        return [file for file in files if self._fault(file) is None]

    def _listing(self, folder: str, key: Callable[[str], str]) -> dict[str, list[str]]:
        if (folder, key) not in self._entries:
            names = self._entries[folder, key] = {}
            try:
                for name in sorted(os.listdir(os.path.join(self._root, folder))):
                    names.setdefault(key(name), []).append(name)
            except OSError:  # a file, or a folder that may not be listed, holds no match
                pass
        return self._entries[folder, key]

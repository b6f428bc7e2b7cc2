"""Runs a stage on bad input as its program does, and checks what it prints and what it leaves behind."""

import contextlib
import ctypes
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from src import preprocess
from src.base.errors import guarded
from src.base.files import file_digest, read_json
from src.pipeline import artefacts

SMALL = ["data.root=data", "view.size=16"]
"""Settings for `small_competition` in the folder data of the present one."""
LONGEST_LINE = 400
"""Characters that a line about bad input may have."""
_REPORTS = {"rejected.csv", "timing.json", "settings.yaml", "provenance.json", "started.json"}
"""Files that are no results: a stage that fails may have written them, whole."""
_MARKERS = {"done.json", "evaluated.json", "submitted.json"}


class Malicious:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def small_competition(root: Path) -> None:
    """Six training photos, a to f, and three test photos, x to z, of 24 × 16 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), dtype=np.uint8)
    for part, names in (("train", "abcdef"), ("test", "xyz")):
        (root / part).mkdir(parents=True)
        for name in names:
            Image.fromarray(noise["abcdefxyz".index(name)]).save(root / part / f"{name}.jpg")
    rows = "".join(f"{name},./train/{name}.jpg,{3 + i}.5,photo {name} is nice\n" for i, name in enumerate("abcdef"))
    (root / "train.csv").write_text("img_name,img_path,mos,comments\n" + rows)
    (root / "test.csv").write_text("img_name,img_path\n" + "".join(f"{name},./test/{name}.jpg\n" for name in "xyz"))
    rows = "".join(f"{name},5.0,a comment\n" for name in "xyz")
    (root / "sample_submission.csv").write_text("img_name,mos,comments\n" + rows)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Have photos decoded in this process, and leave out the picture of statistics."""
    patch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    patch.setattr("src.plots.data_histograms.draw_statistics", lambda *_: None)


def preprocessed_competition(folder: Path) -> Path:
    """The folder, with a small competition in it that has gone through preprocess."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hurry(patch)
        small_competition(folder / "data")
        assert exit_code(preprocess, *SMALL) == 0
    return folder


def exit_code(stage: ModuleType, *arguments: str) -> int:
    """The exit code of a stage, run in this process the way `python -m` runs it for an ordinary user."""
    artefacts.tree_signature.cache_clear()  # a new process knows nothing yet
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _as_an_ordinary_user():
            guarded(lambda: stage.main(list(arguments)))
    except SystemExit as end:
        return end.code
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    return 0


def refused(capfd, stage: ModuleType, arguments: list[str], words: tuple[str, ...]) -> str:
    """Run a stage that must fail, in the present folder; returns its line, which holds the `words`.

    Asserts a non-zero exit code, one line, no traceback, and that no file was lost, changed or left half-written.
    """
    before = _files()
    capfd.readouterr()
    code = exit_code(stage, *arguments)
    printed, errors = capfd.readouterr()
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code in (1, 2) and len(lines) == 1 and errors.rstrip().endswith(lines[0]), (code, printed, errors)
    assert "Traceback" not in printed + errors and "Error:" not in printed + errors, errors
    assert len(lines[0]) <= LONGEST_LINE, lines[0]
    assert not [word for word in words if word not in lines[0]], lines[0]
    _nothing_lost(before)
    return lines[0]


def _files() -> dict[Path, object]:
    """The content of every visible file below the current folder; of a large or locked one what shows a change.

    Without the seconds in a marker, which are others where a stage is done again.
    """
    contents: dict[Path, object] = {}
    for path in Path().rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.parts):
            status = path.stat()
            readable = status.st_size < 1 << 22 and os.access(path, os.R_OK)
            contents[path] = path.read_bytes() if readable else (status.st_size, status.st_mtime_ns, status.st_ino)
            if path.name == "done.json" and readable:
                contents[path] = re.sub(rb'"seconds": [\d.]+', b"", path.read_bytes())
    return contents


def _nothing_lost(before: dict[Path, object]) -> None:
    """Files are as before. New ones are reports, or stand in a folder that is whole."""
    after = _files()
    for path, content in before.items():
        redone = path.name in _MARKERS and "cache" not in path.parts  # without its marker a stage is done again
        assert path.name in _REPORTS or redone and path not in after or after.get(path) == content, f"{path} changed"
    whole = set()
    for marker in (path for path in after.keys() - before.keys() if path.name == "done.json"):
        for name, output in read_json(marker)["outputs"].items():
            assert file_digest(marker.parent / name) == output["sha256"], f"{marker.parent / name} is not whole"
        whole.add(marker.parent)
    strange = [p for p in after.keys() - before.keys() if p.name not in _REPORTS and p.parent not in whole]
    assert not strange, f"left behind: {strange}"
    assert not list(Path().rglob("*.tmp")), "a temporary file was left behind"


@contextlib.contextmanager
def _as_an_ordinary_user() -> Iterator[None]:
    """File permissions hold inside the block also for root, which drops the capabilities to override them meanwhile."""
    if not hasattr(os, "geteuid") or os.geteuid():
        yield
        return

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    libc, header = ctypes.CDLL(None, use_errno=True), Header(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of capabilities 32 to 63
    assert libc.capget(ctypes.byref(header), held) == 0
    override_permissions = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~override_permissions
    assert libc.capset(ctypes.byref(header), fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), held) == 0

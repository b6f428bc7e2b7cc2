"""The pipeline where consoles, folders and users are not as usual."""

import os
import subprocess
from pathlib import Path

import pytest

from src import preprocess
from tests.helpers.bad_input import SMALL, hurry, refused, small_competition
from tests.helpers.stops import program

SHOWN = "– 한국어 é 😍 \\udcff"
"""A dash, Korean, an accent, an emoji and a byte that is no UTF-8, as Python writes them."""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949", "utf-8", "utf-16"])
def test_a_console_that_cannot_show_a_character_ends_nothing(encoding, tmp_path):
    body = f"print('{SHOWN}', flush=True)\nfrom src.base.errors import InputError\nraise InputError('{SHOWN}')"
    command = program(tmp_path, body)
    answer = subprocess.run(
        command,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    errors = answer.stderr.decode(encoding)
    assert answer.returncode == 1 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    printed = answer.stdout.decode(encoding).splitlines()[1]
    assert "\\udcff" in printed and ("é" in printed or encoding in ("ascii", "cp949")), printed


PLACES = {
    "submissions locked": ("run.submissions=locked", "locked cannot be written", "run.submissions=FOLDER"),
    "submissions below a locked one": ("run.submissions=locked/a/b", "locked/a/b", "run.submissions=FOLDER"),
    "submissions is a file": ("run.submissions=file", "file cannot be written", "run.submissions=FOLDER"),
    "runs below a file": ("run.root=file/runs", "file/runs cannot be written", "run.root=FOLDER"),
    "no demo here": ("data.root=null", "data/demo cannot be written", "data.root=FOLDER"),
}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(workplace, capfd, monkeypatch):
    hurry(monkeypatch)
    small_competition(workplace / "photos")
    for folder in ("locked", "data"):
        Path(folder).mkdir()
        Path(folder).chmod(0o555)
    Path("file").touch()
    try:
        for setting, *words in PLACES.values():
            refused(capfd, preprocess, [*SMALL, "data.root=photos", setting], tuple(words))
            assert not Path("runs").exists()
    finally:
        Path("locked").chmod(0o755)

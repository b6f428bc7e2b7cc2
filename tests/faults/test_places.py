"""The pipeline where consoles, folders and users are not as usual."""

import errno
import os
import subprocess
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from src import preprocess
from src.data.pixel_cache import build_pixel_cache
from src.settings.schema import ViewSettings
from tests.conftest import TINY
from tests.helpers.bad_input import SMALL, hurry, refused, small_competition
from tests.helpers.checkout import checkout, environment, forking
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


NOBODY = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
"""Runs a program as a user that has no entry in /etc/passwd."""
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


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), NotImplementedError("no sem_open")])
def test_without_semaphores_photos_are_decoded_by_this_process(error, tmp_path, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)  # what /dev/shm is needed for
    small_competition(tmp_path)
    photos = [f"train/{name}.jpg" for name in "abcdef"]
    monkeypatch.setattr("src.data.pixel_cache.CHUNK", 2)
    monkeypatch.setattr("src.data.pixel_cache._PHOTOS_A_PROCESS", 2)
    assert build_pixel_cache(tmp_path / "cache", tmp_path, photos, ViewSettings(size=16), 2, False) == [None] * 6
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "no other process decodes photos" in printed
    assert np.load(tmp_path / "cache" / "pixels.npy").any(axis=(1, 2, 3)).all()


@pytest.mark.slow
def test_a_user_without_a_name_or_home_runs_code_that_cannot_be_written(tiny_competition, tmp_path):
    if subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    folder = checkout(tmp_path / "code", tiny_competition)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    results = [f"run.root={tmp_path}/runs", f"run.submissions={tmp_path}/submissions"]
    (start := tmp_path / "start").mkdir()
    variables = {"PATH": environment()["PATH"], "HOME": "/", "PYTHONPATH": forking(start)["PYTHONPATH"]}
    command = [*NOBODY, "./run.sh", "--here", *TINY, "split.holdout=0.4", "run.workers=1", *results]
    answer = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert answer.returncode == 0 and "Traceback" not in answer.stderr, answer.stderr[-2000:]
    assert (tmp_path / "submissions" / "submission.csv").is_file()
    assert not (folder / "runs").exists() and not (folder / "submissions").exists()

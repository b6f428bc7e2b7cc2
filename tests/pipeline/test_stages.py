"""How a stage that is started as a process ends the one that started it."""

import subprocess
import sys

import pytest

from src.base.errors import InputError
from src.pipeline import stages


def test_a_stage_that_a_signal_ended_is_named(workplace, monkeypatch):
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(stages, "_start", lambda *_: subprocess.Popen(command))
    with pytest.raises(InputError) as error:
        stages.main([])
    words = "preprocess was ended by signal 9 (Killed), often because memory ran out or the disk is full; the same"
    assert str(error.value) == f"{words} command, without --fresh, goes on"


def test_a_stage_that_fails_has_said_why(workplace, monkeypatch):
    monkeypatch.setattr(stages, "_start", lambda *_: subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"]))
    with pytest.raises(SystemExit) as error:
        stages.main([])
    assert error.value.code == 2

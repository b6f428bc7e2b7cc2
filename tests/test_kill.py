"""A run that is killed again and again ends as one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import TINY

REPOSITORY = Path(__file__).parents[1]
KILLS = 3


def start(folder: Path, root: Path, stage: str) -> subprocess.Popen:
    arguments = [f"data.root={root}", *TINY, "task=mos", "--fold=0", "train.epochs=12", "train.checkpoint_steps=1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"src.{stage}", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, root: Path) -> None:
    process = start(folder, root, "predict")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_sigkill_at_any_moment_changes_nothing(competition, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    began = time.monotonic()
    finish(whole, competition)
    length = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(KILLS):
        process = start(cut, competition, "predict")
        time.sleep(moments.uniform(0.1, 0.9) * length)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in cut.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(cut).parts)
            if path.suffix == ".pt" and not hidden:
                assert path.read_bytes()[:1] == b"{", "nothing half-written under its real name"
    finish(cut, competition)
    for name in ("predictions/oof.csv", "predictions/test.csv", "fold-0/metrics.csv", "fold-0/best-mos.pt"):
        assert (cut / "runs" / "demo" / name).read_bytes() == (whole / "runs" / "demo" / name).read_bytes()


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(competition, tmp_path):
    process = start(tmp_path, competition, "train")
    last = tmp_path / "runs" / "demo" / "fold-0" / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: fold 0, epoch" in errors and "the same command, without --fresh, goes on" in errors
    assert "Traceback" not in errors

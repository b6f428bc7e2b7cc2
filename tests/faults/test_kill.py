"""A pipeline that is killed again and again ends as one that never was. KILLS=20 kills more often."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from src.training import checkpoint
from tests.conftest import TINY
from tests.helpers.checkout import checkout, forking

KILLS = int(os.environ.get("KILLS", 2))
SETTINGS = [*TINY, "split.holdout=0.4", "train.checkpoint_steps=1", "train.epochs=3", "decoder.name=attention"]
SETTINGS += ["ensemble.captions=mbr", "predict.candidates=true", "predict.samples=3"]


def start(folder: Path) -> subprocess.Popen:
    (forked := folder.with_name(f"{folder.name}-start")).mkdir(exist_ok=True)
    return subprocess.Popen(
        ["./run.sh", "--here", *SETTINGS],
        cwd=folder,
        env=forking(forked),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path) -> None:
    output, errors = (process := start(folder)).communicate(timeout=300)
    assert process.returncode == 0, output[-2000:] + errors[-2000:]


def results(folder: Path) -> dict[str, bytes]:
    """What a run hands over, by name."""
    run = folder / "runs" / "demo"
    files = [*run.glob("fold-0/best-*.pt"), run / "fold-0" / "metrics.csv", *run.glob("predictions/**/*.csv")]
    files += [*run.glob("ensemble/*.csv"), *run.glob("predictions/*/*.jsonl"), run / "score.json"]
    files += [folder / "submissions" / "submission.csv"]
    timeless = [file for file in files if "timing" not in file.name]
    return {str(file.relative_to(folder)): file.read_bytes() for file in timeless}


def check_nothing_is_half_written(folder: Path) -> None:
    for path in [*(folder / "runs").rglob("*"), *(folder / "submissions").rglob("*")]:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".pt":
            checkpoint.load(path)  # compares the hash of its content
        if path.suffix == ".json":
            json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(tiny_competition, tmp_path_factory):
    """The results of an uninterrupted run, and the seconds it took."""
    folder = checkout(tmp_path_factory.mktemp("whole"), tiny_competition)
    began = time.monotonic()
    finish(folder)
    return results(folder), time.monotonic() - began


@pytest.mark.slow
def test_sigkill_at_any_moment_of_the_pipeline_changes_nothing(tiny_competition, tmp_path, whole):
    expected, seconds = whole
    folder, moments = checkout(tmp_path, tiny_competition), random.Random(0)
    for number in range(KILLS):
        process = start(folder)
        # what is done stays done, so a restarted run is shorter: late moments would find it finished
        time.sleep(moments.uniform(0.02, 0.6) * seconds)
        if number % 2:
            process.kill()  # the script alone: its stage must not outlive it
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        check_nothing_is_half_written(folder)
        submission = folder / "submissions" / "submission.csv"
        assert not submission.exists() or submission.read_bytes() == expected["submissions/submission.csv"]
    finish(folder)
    assert results(folder) == expected


@pytest.mark.slow
def test_two_starts_at_once_do_the_work_once(tiny_competition, tmp_path, whole):
    folder = checkout(tmp_path, tiny_competition)
    pair = [start(folder), start(folder)]
    outputs = [process.communicate(timeout=600) for process in pair]
    codes = sorted(process.returncode for process in pair)
    said = "".join(output + errors for output, errors in outputs)
    assert "Traceback" not in said
    assert codes[0] == 0, said[-2000:]
    assert "waiting for process" in said or "is in use by process" in said
    if codes[1]:
        assert said.count("error: ") == 1 and "is in use by process" in said
    assert results(folder) == whole[0]


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tiny_competition, tmp_path):
    folder = checkout(tmp_path, tiny_competition)
    process = start(folder)
    last = folder / "runs" / "demo" / "fold-0" / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: fold 0, epoch" in errors and "the same command, without --fresh, goes on" in errors
    assert "Traceback" not in errors

"""A pipeline that is interrupted and killed again and again ends as one that never was. KILLS=20 kills more often."""

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
from tests.helpers.checkout import checkout, environment, forking
from tests.helpers.warm_python import Stage, start_stage

KILLS = int(os.environ.get("KILLS", 2))
SETTINGS = [*TINY, "split.holdout=0.4", "train.checkpoint_steps=1", "train.epochs=3", "decoder.name=attention"]
SETTINGS += ["ensemble.captions=mbr", "predict.candidates=true", "predict.samples=3"]


def start(folder: Path) -> subprocess.Popen:
    """./run.sh in a session of its own, once its first stage is at work."""
    (forked := folder.with_name(f"{folder.name}-start")).mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["./run.sh", "--here", *SETTINGS],
        cwd=folder,
        env=forking(forked),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    while not (line := process.stdout.readline()).startswith("preprocess: "):
        assert line, process.communicate()[1]
    return process


def start_forked(folder: Path, output: str = "finish") -> Stage:
    """The same without the script, forked from a process that has imported the packages."""
    return start_stage(folder, "src.pipeline.stages", SETTINGS, environment(), folder.with_name(output))


def finish(folder: Path) -> float:
    """The seconds that it took."""
    process, began = start_forked(folder), time.monotonic()
    printed = "".join(process.communicate(timeout=300))
    assert process.returncode == 0, printed[-2000:]
    return time.monotonic() - began


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
    seconds = finish(folder)
    return results(folder), seconds


def press_ctrl_c_at_the_first_step(folder: Path) -> float:
    """Start it and stop it as a terminal does; it says how to go on. The seconds that its stages ran."""
    last = folder / "runs" / "demo" / "fold-0" / "last.pt"
    process, began = start(folder), time.time()
    # the checkpoint of this start, not one that an earlier start has left
    while not (last.exists() and last.stat().st_mtime > began) and process.poll() is None:
        time.sleep(0.02)
    seconds = time.time() - began
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: fold 0, epoch" in errors and "the same command, without --fresh, goes on" in errors
    assert "Traceback" not in errors
    return seconds


@pytest.mark.slow
def test_ctrl_c_and_sigkill_at_any_moment_change_nothing(tiny_competition, tmp_path, whole):
    expected, seconds = whole
    folder, moments = checkout(tmp_path, tiny_competition), random.Random(0)
    process = start(folder)
    time.sleep(moments.uniform(0, 0.1) * seconds)  # before the first training step
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    check_nothing_is_half_written(folder)
    left = seconds - press_ctrl_c_at_the_first_step(folder)
    check_nothing_is_half_written(folder)
    for number in range(KILLS):
        process = start(folder)
        # what is done stays done, so a restarted run is shorter: late moments would find it finished
        time.sleep(moments.uniform(0.02, 0.5) * max(left, 1))
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
    pair = [start_forked(folder, output) for output in ("first", "second")]
    outputs = [process.communicate(timeout=600) for process in pair]
    codes = sorted(process.returncode for process in pair)
    said = "".join(output + errors for output, errors in outputs)
    assert "Traceback" not in said
    assert codes[0] == 0, said[-2000:]
    assert "waiting for process" in said or "is in use by process" in said
    if codes[1]:
        assert said.count("error: ") == 1 and "is in use by process" in said
    assert results(folder) == whole[0]

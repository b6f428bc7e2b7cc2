"""Processes that are asked to stop: how long they take, what they say, and whom they leave behind."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.pipeline.stages import STAGES
from tests.conftest import TINY
from tests.helpers import warm_python
from tests.helpers.checkout import environment

SETTINGS = [*TINY, "split.holdout=0.4", "train.checkpoint_steps=3", "decoder.name=attention", "tune.trials=2"]
SETTINGS += ["tune.space={optim.lr: {low: 0.001, high: 0.01}}", "tune.judge_folds=[]", "run.workers=1"]
SETTINGS += ["ensemble.captions=mbr", "predict.candidates=true", "predict.samples=3"]
"""Of a run that goes through every stage."""
LONGEST = 5.0
"""Seconds that a stop may take."""


@dataclass(frozen=True)
class Stop:
    """How a process ended that was asked to stop. None of it where it had ended before."""

    seconds: float
    code: int
    printed: str


def start(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """A program in a session of its own, as a login has; it gets Ctrl-C where the tests, in the background, do not."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def start_stage(stage: str, folder: Path, arguments: list[str]) -> subprocess.Popen:
    """A stage as a program."""
    return start([sys.executable, "-m", f"src.{stage}", *arguments], folder, environment())


def fork_stage(stage: str, folder: Path, arguments: list[str]) -> warm_python.Stage:
    """A stage, forked from a process that has imported the packages, in a session of its own."""
    output = folder.with_name(f"{folder.name}-printed")
    return warm_python.start_stage(folder, f"src.{stage}", arguments, environment(), output)


def stop(process: subprocess.Popen | warm_python.Stage, number: int, group: bool = False) -> Stop | None:
    """Ask it to stop, as `kill` does, or all its group, as a terminal and Slurm do; None where it had ended by itself.

    Asserts that it ends in time, in one line and without a traceback, and that its processes end with it.
    """
    began = time.monotonic()
    if process.poll() is None:
        (os.killpg if group else os.kill)(process.pid, number)
    printed = "".join(filter(None, process.communicate(timeout=60)))
    seconds = time.monotonic() - began
    if process.returncode == 0:
        return None
    ended = Stop(seconds, process.returncode, printed)
    assert process.returncode in (128 + number, -number), ended
    assert seconds < LONGEST, ended
    assert "Traceback" not in printed and "error:" not in printed, ended
    assert process.returncode < 0 or not printed or "stopped: " in printed.splitlines()[-1], ended
    while left := session(process.pid):
        assert time.monotonic() - began < LONGEST + 5, f"left behind: {left}"
        time.sleep(0.05)
    return ended


def session(leader: int) -> list[str]:
    """The command lines of the processes of a session."""
    lines = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            if fields[3] == str(leader) and fields[0] not in "ZX":
                lines.append(status.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return lines


def program(folder: Path, body: str) -> list[str]:
    """The command line of a program whose `main`, of that body, is guarded as a stage's; it prints "ready" first."""
    file = folder / "program.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    file.write_text(
        "import contextlib, hashlib, os, signal, sys, threading, time\n"
        "from src.base.errors import guarded\n"
        "from src.base.worker_pool import thread_pool, worker_pool\n"
        f"def main():\n    print('ready', flush=True)\n{lines}\n"
        "if __name__ == '__main__':\n    guarded(main)\n"
    )
    return [sys.executable, str(file)]


def stop_when_ready(command: list[str], folder: Path, number: int = signal.SIGTERM, group: bool = False) -> Stop:
    """Stop a `program` once it has said that it is ready, and a moment later."""
    process = start(command, folder)
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    ended = stop(process, number, group)
    assert ended, "it ended by itself"
    return ended


def stages_stopped(
    stopped: Path,
    undisturbed: Path,
    arguments: list[str],
    count: int,
    seed: int,
    begin: Callable[[str, Path, list[str]], subprocess.Popen | warm_python.Stage] = start_stage,
) -> list[tuple[str, Stop]]:
    """Run the stages in two `checkout`s, in one of them stopped at `count` random moments; which stage stopped how."""
    moments, stops = random.Random(seed), []

    def finish(stage: str, folder: Path) -> None:
        process = begin(stage, folder, arguments)
        printed = "".join(filter(None, process.communicate(timeout=600)))
        assert process.returncode == 0, printed[-2000:]

    for place, stage in enumerate(STAGES):
        began = time.monotonic()
        finish(stage, undisturbed)
        seconds = time.monotonic() - began
        for _ in range(count // len(STAGES) + (place < count % len(STAGES))):
            process = begin(stage, stopped, arguments)
            time.sleep(moments.uniform(0.05, 1) * seconds)
            ended = stop(process, moments.choice([signal.SIGINT, signal.SIGTERM]), moments.random() < 0.5)
            stops += [(stage, ended)] if ended else []
        finish(stage, stopped)
    return stops

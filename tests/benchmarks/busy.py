"""Training beside one busy process of equal priority, against training alone, on all cores of the machine."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from src.base.machine import usable_cores
from src.demo.competition import make_competition
from tests.conftest import TINY
from tests.helpers.checkout import checkout, environment

SETTINGS = [*TINY, "task=mos", "view.size=128", "train.batch_size=4", "train.epochs=6", "tune.trials=0"]
WAYS = {
    "one fold, one thread": ["--fold", "0", "run.threads=1"],
    "one fold, a thread a core": ["--fold", "0", f"run.threads={usable_cores()}"],
    "all folds side by side": ["run.threads=1"],
}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of a training beside a busy process, and alone."""
    with tempfile.TemporaryDirectory() as place:
        make_competition(Path(place, "data"), progress=False, train=60, test=20)
        folder, variables = checkout(Path(place, "checkout"), Path(place, "data")), environment()
        del variables["OMP_NUM_THREADS"]

        def seconds(stage: str, *arguments: str) -> float:
            began = time.perf_counter()
            command = [sys.executable, "-m", f"src.{stage}", *SETTINGS, *arguments]
            subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True)
            return time.perf_counter() - began

        seconds("split")
        for way, arguments in WAYS.items():
            alone = seconds("train", *arguments, "--fresh")
            with busy(1):
                beside = seconds("train", *arguments, "--fresh")
            yield f"train {way}, beside a busy process", beside, alone, "the same alone"

"""Processes that load batches are killed, stall, lose a batch or cannot be reached: this process loads what is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from src.data import loading
from src.data.dataset import BatchSlice
from tests.helpers.checkout import environment

LOST = 3
"""The row whose batch is never delivered by a process."""


def kill(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def raise_error() -> None:
    raise MemoryError("Unable to allocate 2 GiB")


FAULTS = {
    "killed, as the system does where memory runs out": (kill, signal.SIGKILL, "ended by SIGKILL"),
    "shared memory is full": (kill, signal.SIGBUS, "ended by SIGBUS"),
    "stopped": (kill, signal.SIGSTOP, "no batch came within 2 seconds"),
    "stalls": (time.sleep, 60, "no batch came within 2 seconds"),
    "ends": (os._exit, 3, "exit code 3"),
    "raises": (raise_error, None, "Caught MemoryError"),
}


class Rows:
    """A dataset whose batches are their rows; in a loader process one fails."""

    def __init__(self, fault: str):
        self.fault = fault

    def __getitem__(self, index: BatchSlice) -> dict:
        if index.rows[0] == LOST and multiprocessing.parent_process():
            act, argument, _ = FAULTS[self.fault]
            act(*[] if argument is None else [argument])
        return {"row": int(index.rows[0])}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_loader_process_loses_no_batch(fault, monkeypatch, capsys):
    monkeypatch.setattr(loading, "LONGEST_WAIT", 2 if "within" in FAULTS[fault][2] else 50)
    monkeypatch.setattr(loading, "_LOOK_EVERY", 0.5)
    slices = (BatchSlice(0, np.array([row])) for row in range(12))
    began, rows = time.monotonic(), []
    for batch in loading.load_batches(Rows(fault), slices, 2, False):
        rows.append(batch["row"])
        time.sleep(0.02)  # a process that ends meanwhile must not disturb the step
    assert rows == list(range(12)) and time.monotonic() - began < 45
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and FAULTS[fault][2] in printed and "run.workers=2" in printed, printed
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("tmpdir", ["대회" * 20, "gone"])
def test_loader_processes_start_where_tmpdir_is_unusual(tmpdir, tmp_path):
    place = tmp_path / tmpdir
    if tmpdir != "gone":
        place.mkdir()
    code = (
        "import numpy as np; from src.data.loading import load_batches; from src.data.dataset import BatchSlice\n"
        "from tests.faults.test_loaders import Tensors\n"
        "slices = [BatchSlice(0, np.array([row])) for row in range(4)]\n"
        "print([batch['row'].item() for batch in load_batches(Tensors(), slices, 1, False)])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment(), "TMPDIR": str(place), "PYTHONPATH": os.environ["PYTHONPATH"]},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert answer.stdout == "[0, 1, 2, 3]\n", answer.stdout + answer.stderr


class Tensors:
    """A dataset whose batches travel through shared memory."""

    def __getitem__(self, index: BatchSlice) -> dict:
        import torch

        return {"row": torch.from_numpy(index.rows)}

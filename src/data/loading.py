"""Batches in the order of their slices, loaded by processes where there are any, and without them where these fail."""

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from torch.utils.data import DataLoader

from src.base.stopping import children_without_interrupts
from src.base.text import one_line
from src.data.dataset import BatchDataset, BatchSlice

LONGEST_WAIT = 50
"""Seconds in which a process must deliver its batch."""
_LOOK_EVERY = 3
"""Seconds after which it is looked whether the processes still run."""
_LONGEST_FOLDER = 60
"""Bytes: the path of a socket may have 107, and multiprocessing adds two names to the folder."""


def load_batches(
    dataset: BatchDataset, slices: Iterable[BatchSlice], workers: int, pin: bool
) -> Iterator[dict[str, Any]]:
    """The batches of the slices, in order, prefetched by `workers` processes where there are any.

    Where these cannot be started, are killed or do not answer, one line says so and this process loads what is left: a
    batch is a function of its slice.
    """
    slices, asked = iter(slices), deque[BatchSlice]()
    if workers:
        try:
            yield from _by_processes(dataset, slices, asked, workers, pin)
            return
        except Exception as error:  # also a fault of the data in such a process: here it shows as what it is
            reason = one_line(str(error).partition("\n")[0].rstrip(". "))
            print(
                f"run.workers={workers}: a process that loads batches failed ({reason}), often because memory ran out "
                "(docker: --shm-size); this process loads them from here on",
                flush=True,
            )
    yield from DataLoader(dataset, batch_size=None, sampler=chain(asked, slices), pin_memory=pin)


def _by_processes(
    dataset: BatchDataset, slices: Iterator[BatchSlice], asked: deque[BatchSlice], workers: int, pin: bool
) -> Iterator[dict[str, Any]]:
    """As `load_batches`; `asked` holds the slices that were taken and whose batches have not been yielded."""

    def noted() -> Iterator[BatchSlice]:
        for batch_slice in slices:
            asked.append(batch_slice)
            yield batch_slice

    # not fork: the threads of torch and of CUDA do not survive it
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    others = set(multiprocessing.active_children())
    processes: set[Any] = set()
    try:
        _have_short_socket_paths()
        with children_without_interrupts():
            batches = iter(
                DataLoader(
                    dataset,
                    batch_size=None,
                    sampler=noted(),
                    num_workers=workers,
                    pin_memory=pin,
                    multiprocessing_context=method,
                    prefetch_factor=4,
                    timeout=_LOOK_EVERY,
                    worker_init_fn=_leave_signals_to_the_main_process,
                )
            )
        processes = set(multiprocessing.active_children()) - others
        while (batch := _next(batches)) is not None:
            asked.popleft()
            yield batch
    except BaseException as error:
        codes = [process.exitcode for process in processes if process.exitcode]
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # one that does not answer does not end when asked to
        if isinstance(error, Exception) and codes:
            how = f"by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"with exit code {codes[0]}"
            raise RuntimeError(f"it was ended {how}") from None
        raise


def _next(batches: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The next batch, or None at the end. Raises RuntimeError where a process has ended, or does not answer."""
    began = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            if time.monotonic() - began > LONGEST_WAIT:
                raise RuntimeError(f"no batch came within {LONGEST_WAIT} seconds") from None


def _leave_signals_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _have_short_socket_paths() -> None:
    """Have multiprocessing put its sockets into /tmp where TMPDIR is too long for them."""
    before = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(before)) > _LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"
        try:
            multiprocessing.util.get_temp_dir()  # it keeps what it has once chosen
        finally:
            tempfile.tempdir = before

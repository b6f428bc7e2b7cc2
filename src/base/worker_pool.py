"""A pool of processes that leave interruptions to their parent and end with it. Standard library only."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from src.base.errors import InputError


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(initialize: Callable[..., None] | None, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initialize:
        initialize(*arguments)


@contextlib.contextmanager
def worker_pool(
    processes: int, purpose: str, initialize: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool that is left without waiting for calls that have not begun. initialize(*arguments) runs in each process.

    Raises InputError where a process is killed; purpose: what it does, for the message ("decodes photos").
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (initialize, arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise InputError(
            f"a process that {purpose} was ended from outside, often because memory ran out; run the same command again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""Pools that do not delay a stop: processes that leave interruptions to their parent and end with it, and threads."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from src.base.errors import InputError
from src.base.machine import keep_freed_memory
from src.base.stopping import children_without_interrupts
from src.base.text import one_line


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(initialize: Callable[..., None] | None, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    if initialize:
        initialize(*arguments)


@contextlib.contextmanager
def worker_pool(
    processes: int, purpose: str, initialize: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[Executor]:
    """A pool that is left without waiting for calls that have not begun. initialize(*arguments) runs in each process.

    Where the block raises, calls that have begun are ended, too. Where the system has no semaphores for processes, as
    with a /dev/shm that cannot be written, one line says so and a thread of this one does the work. purpose: what the
    processes do, for messages ("decodes photos"). Raises InputError where one is killed.
    """
    context = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(processes, context, _start_worker, (initialize, arguments))
    except (ImportError, NotImplementedError, OSError) as error:
        print(f"no other process {purpose}: none can be started ({one_line(str(error))}; see /dev/shm)", flush=True)
        with thread_pool(1, initializer=initialize, initargs=arguments) as thread:
            yield thread
        return
    try:
        with children_without_interrupts():
            for _ in range(processes):
                pool.submit(int)  # starts one of them
        yield pool
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise InputError(
            f"a process that {purpose} was ended from outside, often because memory ran out; run the same command again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def thread_pool(threads: int, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that is left without waiting for its calls where the block raises. options: the executor's."""
    pool = ThreadPoolExecutor(threads, **options)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def few_ahead(pool: Executor, function: Callable[..., Any], arguments: Iterable[tuple], ahead: int) -> Iterator[Any]:
    """The results of function(*each), in order. Unlike `Executor.map` it takes only so many arguments ahead."""
    asked: deque[Future] = deque()
    for each in arguments:
        asked.append(pool.submit(function, *each))
        if len(asked) > ahead:
            yield asked.popleft().result()
    while asked:
        yield asked.popleft().result()

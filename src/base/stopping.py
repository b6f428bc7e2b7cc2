"""Requests to stop, Ctrl-C and SIGTERM: obeyed within seconds at any moment, for every output is whole or absent."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

GRACE = 3.0
"""Seconds from the first request to the end of the process, also where the main thread is inside a library's code."""
FINISHING = 60.0
"""Seconds from the first request after which the process ends also inside `time_to_finish`."""
GO_ON = "the same command, without --fresh, goes on"
_LEFT_SILENTLY = "ignore:resource_tracker:UserWarning"
"""A warning of the process that removes semaphores which one that ended at once has left."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_nothing_to_finish = threading.Event()
"""Set but inside `time_to_finish`."""
_nothing_to_finish.set()


class Stopped(BaseException):
    """The user or the system asked the program to stop, and it did so cleanly.

    `signal` is the number of that signal; the process ends with 128 + signal, as shells expect.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class StopRequests:
    """Inside the block, which the main thread enters, the first request raises Stopped there, and later ones nothing.

    A thread sees to it that the process has ended GRACE seconds later: at once, as if it was killed, where the main
    thread is still busy, or has lost the exception in a library. It watches on after a block that a request has ended.
    What is inside `time_to_finish` by then is finished first.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._raised = self._reported = False

    def __enter__(self) -> "StopRequests":
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(receiver,), daemon=True).start()
        for signum in _SIGNALS:  # SIGINT, too: a shell script's background processes would else ignore Ctrl-C
            signal.signal(signum, self._raise)
        if _LEFT_SILENTLY not in sys.warnoptions:
            sys.warnoptions.append(_LEFT_SILENTLY)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._end_if_lost
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._reported = kind is Stopped  # by who catches it
        for signum in _SIGNALS:  # nothing is left to do: the process may end in any way
            signal.signal(signum, signal.SIG_IGN if self.signal else signal.SIG_DFL)
        if not self.signal:
            sys.unraisablehook = self._unraisable
            signal.set_wakeup_fd(self._previous)
            self._sender.close()

    def _raise(self, signum: int, _: FrameType | None) -> None:
        self.signal = self.signal or signum
        if not self._raised:
            self._raised = True
            raise Stopped(GO_ON, signum)

    def _watch(self, receiver: socket.socket) -> None:
        with receiver:
            while numbers := receiver.recv(64):
                for signum in filter(_SIGNALS.__contains__, numbers):
                    self.signal = self.signal or signum  # the handler may never run
                    latest = time.monotonic() + FINISHING
                    time.sleep(GRACE)
                    while not _nothing_to_finish.is_set() and time.monotonic() < latest:
                        _nothing_to_finish.wait(latest - time.monotonic())
                        time.sleep(GRACE)  # for the end that the main thread makes by itself
                    self._end(signum)

    def _end_if_lost(self, lost: Any) -> None:
        """Where Stopped was raised in a destructor or callback, Python would only print it and go on."""
        if isinstance(lost.exc_value, Stopped):
            self._end(lost.exc_value.signal)
        self._unraisable(lost)

    def _end(self, signum: int) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"" if self._reported else f"stopped: {GO_ON}\n".encode())
        end_at_once(128 + signum)


@contextlib.contextmanager
def time_to_finish() -> Iterator[None]:
    """In the block, which the main thread enters, the process is not ended GRACE seconds after a request to stop.

    For what is lost where it is not finished, as a checkpoint that is being written. At most FINISHING seconds.
    """
    _nothing_to_finish.clear()
    try:
        yield
    finally:
        _nothing_to_finish.set()


def end_at_once(code: int) -> NoReturn:
    """End this process and those of its pools without Python's tidying up, which may wait for any of them."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


@contextlib.contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes that are started inside the block never get Ctrl-C, which a terminal sends to all, but their parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""A request to stop, obeyed between two optimiser steps so that a checkpoint can be written first."""

import signal
import threading
import time
from types import FrameType
from typing import Any

from src.base.errors import Stopped

_ECHO = 2.0  # seconds in which torchrun passes on a signal that the terminal has sent to all processes already


class Interrupt:
    """Remembers SIGINT (Ctrl-C) or SIGTERM while its block runs; `signal` is 0 as long as there was none.

    A second request, made after more than two seconds, raises Stopped at once.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, _: FrameType | None) -> None:
        if self.signal and time.monotonic() - self._since > _ECHO:
            raise Stopped("the last checkpoint stands; the same command goes on from there", signum)
        self.signal, self._since = signum, time.monotonic()

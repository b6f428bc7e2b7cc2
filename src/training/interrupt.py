"""A request to stop, obeyed where a checkpoint can be written first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from src.base.errors import Stopped


class Interrupt:
    """Remembers SIGINT (Ctrl-C) or SIGTERM while its block runs; `signal` is 0 as long as there was none."""

    def __init__(self) -> None:
        self.signal = 0
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block, which changes no state that is to be saved, a request raises Stopped at once."""
        self._at_once = True
        try:
            if self.signal:
                self._raise()
            yield
        finally:
            self._at_once = False

    def _remember(self, signum: int, _: FrameType | None) -> None:
        self.signal = signum
        if self._at_once:
            self._raise()

    def _raise(self) -> None:
        self._at_once = False  # a second request must not disturb what the first has begun
        raise Stopped("the last checkpoint stands; the same command goes on from there", self.signal)

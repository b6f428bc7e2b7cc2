"""A running picture with what is said of it: the showing never waits for the saying.

`describe` takes one frame and answers with anything; it is slow. Every frame is shown, with the newest answer there is.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Describe = Callable[[np.ndarray], Any]


class Beside:
    """Describes in a thread of its own, always the newest frame: what comes while it is busy is skipped, not queued.

    A context manager; called with a frame it answers at once, with the newest answer, or None before the first. What
    `describe` raises is raised by the next call, or at the end.
    """

    def __init__(self, describe: Describe):
        self.describe = describe
        self.described = 0
        self._frame: np.ndarray | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="describe", daemon=True)

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __call__(self, frame: np.ndarray) -> Any:
        with self._changed:
            if self._error:
                raise self._error
            self._frame = frame
            self._changed.notify()
            return self._answer

    def __exit__(self, kind: type | None, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def _work(self) -> None:
        while (frame := self._newest()) is not None:
            try:
                answer = self.describe(frame)
            except BaseException as error:  # raised again where the caller sees it
                with self._changed:
                    self._error = error
                return
            with self._changed:
                self._answer = answer
                self.described += 1

    def _newest(self) -> np.ndarray | None:
        """Wait for a frame that was not described yet; None when no more are wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed)
            frame, self._frame = self._frame, None
            return None if self._closed else frame


class Every:
    """Describes one frame in so many and waits for the answer, so that a film comes out the same each time."""

    def __init__(self, describe: Describe, frames: int):
        self.describe, self.frames = describe, frames
        self.described = 0
        self._seen = 0
        self._answer: Any = None

    def __enter__(self) -> "Every":
        return self

    def __call__(self, frame: np.ndarray) -> Any:
        if self._seen % self.frames == 0:
            self._answer = self.describe(frame)
            self.described += 1
        self._seen += 1
        return self._answer

    def __exit__(self, *_) -> None:
        pass


class Steadily:
    """Writes frames that come at no steady rate so often that the film runs at `rate` frames a second."""

    def __init__(self, write: Callable[[np.ndarray], Any], rate: float, clock: Callable[[], float] = time.monotonic):
        self.write, self.rate, self.clock = write, rate, clock
        self._began: float | None = None
        self._written = 0

    def __call__(self, frame: np.ndarray) -> None:
        now = self.clock()
        self._began = now if self._began is None else self._began
        while self._written <= (now - self._began) * self.rate:
            self.write(frame)
            self._written += 1


def paced(
    frames: Iterable[np.ndarray],
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """The frames, none before its time at `rate` a second."""
    began = clock()
    for number, frame in enumerate(frames):
        early = began + number / rate - clock()
        if early > 0:
            sleep(early)
        yield frame


def play(
    frames: Iterable[np.ndarray],
    answer: Describe,
    draw: Callable[[np.ndarray, Any], np.ndarray],
    sinks: Sequence[Callable[[np.ndarray], bool | None]],
) -> int:
    """Give every frame, with what `draw` makes of it and the newest answer, to all sinks; the number of frames.

    A sink that returns False ends it.
    """
    shown = 0
    for frame in frames:
        drawn = draw(frame, answer(frame))
        shown += 1
        if any([sink(drawn) is False for sink in sinks]):
            break
    return shown

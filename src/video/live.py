"""Live captions of a video: frames are shown at their own pace, the caption on them follows when it is ready."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

Describe = Callable[[np.ndarray], Any]
"""Takes a frame, BGR uint8 [H, W, 3], and returns what is to be drawn on it. Slow."""


class BackgroundCaptioner:
    """Captions the newest frame in a thread of its own; frames that arrive while it is busy are skipped, not queued.

    Never blocks: a call returns the newest caption, None while there is none. An error of `describe` is raised by the
    next call, or on exit. `captioned`: frames that were captioned.
    """

    def __init__(self, describe: Describe):
        self.describe = describe
        self.captioned = 0
        self._frame: np.ndarray | None = None
        self._caption: Any = None
        self._closed = False
        self._changed = threading.Condition()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captioner")

    def __enter__(self) -> "BackgroundCaptioner":
        self._work_done = self._executor.submit(self._work)
        return self

    def __call__(self, frame: np.ndarray) -> Any:
        if self._work_done.done():
            self._work_done.result()
        with self._changed:
            self._frame = frame
            self._changed.notify()
        return self._caption

    def __exit__(self, kind: type | None, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._executor.shutdown()
        if kind is None:
            self._work_done.result()

    def _work(self) -> None:
        while (frame := self._next_frame()) is not None:
            self._caption = self.describe(frame)
            self.captioned += 1

    def _next_frame(self) -> np.ndarray | None:
        """Wait for a frame that was not captioned yet; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed)
            frame, self._frame = self._frame, None
            return None if self._closed else frame


class PeriodicCaptioner:
    """Captions every `period`-th frame and waits for it, so that a written video is the same each time."""

    def __init__(self, describe: Describe, period: int):
        self.describe, self.period = describe, period
        self.captioned = 0
        self._frames = 0
        self._caption: Any = None

    def __call__(self, frame: np.ndarray) -> Any:
        if self._frames % self.period == 0:
            self._caption = self.describe(frame)
            self.captioned += 1
        self._frames += 1
        return self._caption


class ConstantRateWriter:
    """Writes frames that arrive at irregular times, repeating or dropping some, at `rate` frames a second."""

    def __init__(self, write: Callable[[np.ndarray], Any], rate: float, clock: Callable[[], float] = time.monotonic):
        self.write, self.rate, self.clock = write, rate, clock
        self._start: float | None = None
        self._written = 0

    def __call__(self, frame: np.ndarray) -> None:
        now = self.clock()
        self._start = now if self._start is None else self._start
        while self._written <= (now - self._start) * self.rate:
            self.write(frame)
            self._written += 1


def at_frame_rate(
    frames: Iterable[np.ndarray],
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """The frames, each at the earliest when it is due at `rate` frames a second."""
    start = clock()
    for index, frame in enumerate(frames):
        early = start + index / rate - clock()
        if early > 0:
            sleep(early)
        yield frame


def play(
    frames: Iterable[np.ndarray],
    caption: Callable[[np.ndarray], Any],
    draw: Callable[[np.ndarray, Any], np.ndarray],
    sinks: Sequence[Callable[[np.ndarray], bool | None]],
) -> int:
    """Pass each frame, with its caption drawn on it, to all sinks; the number of frames. A sink's False ends it."""
    shown = 0
    for frame in frames:
        drawn = draw(frame, caption(frame))
        shown += 1
        if any([sink(drawn) is False for sink in sinks]):
            break
    return shown


class Window:
    """A window that shows frames until q or Escape is pressed or it is closed. Tk, as OpenCV is the headless build."""

    def __init__(self, title: str):
        import tkinter

        self._root = tkinter.Tk()
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open = True
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _: self.close())
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def __call__(self, frame: np.ndarray) -> bool:
        """Show a frame, shrunk to fit the screen; False once the window has been closed."""
        from PIL import Image, ImageTk

        if not self._open:
            return False
        screen = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        scale = min(1.0, *(0.9 * room / side for room, side in zip(screen, frame.shape[1::-1], strict=True)))
        if scale < 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._image = ImageTk.PhotoImage(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)), master=self._root)
        self._label.configure(image=self._image)
        self._root.update()
        return self._open

    def close(self) -> None:
        """Close the window; a later frame is only answered with False."""
        if self._open:
            self._open = False
            self._root.destroy()


def open_window(title: str) -> Window | None:
    """A window, or None without a screen or without tkinter."""
    try:
        import tkinter
    except ImportError:
        return None
    try:
        return Window(title)
    except tkinter.TclError:
        return None

"""Videos read and written, cameras read, and a window on the screen."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from src.base.errors import InputError
from src.base.files import replacing

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".ts")
USUAL_RATE = 25.0
"""Frames a second where a source does not say."""
_FASTEST = 240.0
_TOLERANCE = 0.02
"""Some containers only estimate how many frames they hold."""


def _silence() -> None:
    """Say nothing on stderr: what goes wrong is said in one line of our own."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when the first video is opened
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Source:
    """A video file, or a camera by its number. Iterating gives its frames, BGR uint8 [H, W, 3], to the last.

    `rate`: frames a second. `expected`: frames that the file says it holds, 0 where it does not say. `read`: frames
    read so far; `ended`: that was all. Raises InputError, in one line, where it cannot be opened or gives no frame.
    """

    def __init__(self, source: Path | int):
        _silence()
        self.source = source
        self.camera = isinstance(source, int)
        if not self.camera and not Path(source).is_file():
            raise InputError(f"{source}: no such file")
        self._capture = cv2.VideoCapture(source if self.camera else str(source))
        opened, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not opened and self.camera:
            raise InputError(
                f"camera {source}: not found, or used by another program; give another number, or a video file"
            )
        if not opened:
            raise InputError(f"{source}: not a video, or truncated or damaged; check that it plays, or copy it again")
        rate, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if math.isfinite(rate) and 0 < rate <= _FASTEST else USUAL_RATE
        self.expected = int(count) if not self.camera and math.isfinite(count) and count > 0 else 0
        self.read, self.ended = 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        good, frame = True, self._first
        while good:
            self.read += 1
            yield frame
            good, frame = self._capture.read()
        self.ended = True

    def shortfall(self) -> str:
        """One plain sentence where a file ended before its time, else ""."""
        if not self.ended or self.read >= self.expected * (1 - _TOLERANCE) - 1:
            return ""
        return f"{self.source} ends early: {self.read} of its {self.expected} frames could be read"

    def close(self) -> None:
        """Give the camera or file back."""
        self._capture.release()


@contextlib.contextmanager
def film(out: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that adds a frame, BGR uint8 [H, W, 3], to the MP4 file `out`, which is written whole or not.

    MPEG-4 part 2 without sound; an odd width or height loses its last pixel. Raises InputError where it cannot be
    written, or is not whole when it is read back.
    """
    _silence()
    rate = round(rate, 3 if rate < 65 else 2)  # the format holds no finer fractions
    with replacing(out) as temporary:
        unfinished = temporary.with_name(f"{temporary.name}.mp4")  # the format is chosen by the name's end
        writer = cv2.VideoWriter()
        written = 0

        def write(frame: np.ndarray) -> None:
            nonlocal written
            if not writer.isOpened():
                size = frame.shape[1], frame.shape[0]
                if not writer.open(str(unfinished), cv2.VideoWriter_fourcc(*"mp4v"), rate, size):
                    raise InputError(f"{out}: cannot be written; check that its folder takes files, or choose another")
            writer.write(frame)
            written += 1

        try:
            yield write
            writer.release()
            if not written or _frames_in(unfinished) != written:
                raise InputError(f"{out}: could not be written whole; is the disk full?")
            os.replace(unfinished, temporary)
        finally:
            writer.release()
            unfinished.unlink(missing_ok=True)


def _frames_in(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return frames


class Window:
    """A window that shows frames until q or Escape is pressed or it is closed. Made by `open_window`."""

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
        """Show a frame, made smaller where the screen is; False once the window has been closed."""
        from PIL import Image, ImageTk

        if not self._open:
            return False
        largest = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        scale = min(1.0, *(0.9 * room / side for room, side in zip(largest, frame.shape[1::-1], strict=True)))
        if scale < 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._image = ImageTk.PhotoImage(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)), master=self._root)
        self._label.configure(image=self._image)
        self._root.update()
        return self._open

    def close(self) -> None:
        """Close it; a frame that comes later is only answered with False."""
        if self._open:
            self._open = False
            self._root.destroy()


def open_window(title: str) -> Window | None:
    """A window, or None where there is no screen. OpenCV without a user interface is what is installed, so Tk shows."""
    try:
        import tkinter
    except ImportError:
        return None
    try:
        return Window(title)
    except tkinter.TclError:
        return None

"""Reading videos and cameras, and writing MP4 files."""

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
DEFAULT_RATE = 25.0
"""Frames a second where a source does not say."""
_HIGHEST_RATE = 240.0
_LARGEST_INT = 2**31 - 1  # OpenCV's number of a camera is a C int
_TOLERANCE = 0.02
"""Some containers only estimate how many frames they hold."""


def _silence_opencv() -> None:
    """Keep OpenCV and FFmpeg from printing to stderr: errors are reported in one line of our own."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when the first video is opened
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoSource:
    """A video file, or a camera by its index. Iterating yields its frames, BGR uint8 [H, W, 3].

    `rate`: frames a second. `expected`: the file's own count of its frames, 0 if unknown. `read`: frames read so far.
    `ended`: the last one was read. Raises InputError where it cannot be opened or gives no frame.
    """

    def __init__(self, source: Path | int):
        _silence_opencv()
        self.source = source
        self.camera = isinstance(source, int)
        if isinstance(source, int):
            self._capture = cv2.VideoCapture(min(source, _LARGEST_INT))
        elif not source.is_file():
            raise InputError(f"{source}: no such file")
        else:
            self._capture = cv2.VideoCapture(str(source))
        opened, self._first = self._capture.read()  # False, None for a capture that is not open
        if not opened and self.camera:
            raise InputError(
                f"camera {source}: not found, or used by another program; give another number, or a video file"
            )
        if not opened:
            raise InputError(f"{source}: not a video, or truncated or damaged; check that it plays, or copy it again")
        rate, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if math.isfinite(rate) and 0 < rate <= _HIGHEST_RATE else DEFAULT_RATE
        self.expected = int(count) if not self.camera and math.isfinite(count) and count > 0 else 0
        self.read, self.ended = 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        opened, frame = True, self._first
        while opened:
            self.read += 1
            yield frame
            opened, frame = self._capture.read()
        self.ended = True

    def shortfall(self) -> str:
        """A sentence where a file ended before the number of frames that it claims to hold, else ""."""
        if not self.ended or self.read >= self.expected * (1 - _TOLERANCE) - 1:
            return ""
        return f"{self.source} ends early: {self.read} of its {self.expected} frames could be read"

    def close(self) -> None:
        """Release the camera or file."""
        self._capture.release()


@contextlib.contextmanager
def video_writer(out: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame, BGR uint8 [H, W, 3], to the MP4 file `out`, which is written whole or not.

    MPEG-4 part 2 without sound; an odd width or height loses its last pixel. Raises InputError where it cannot be
    written, or is incomplete when read back.
    """
    _silence_opencv()
    rate = round(rate, 3 if rate < 65 else 2)  # the format holds no finer fractions
    with replacing(out) as temporary:
        unfinished = temporary.with_name(f"{temporary.name}.mp4")  # OpenCV chooses the format by the suffix
        writer = cv2.VideoWriter()
        written = 0

        def write(frame: np.ndarray) -> None:
            nonlocal written
            if not writer.isOpened():
                size = frame.shape[1], frame.shape[0]
                if not writer.open(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), rate, size):
                    raise InputError(f"{out}: cannot be written; check that its folder takes files, or choose another")
            writer.write(frame)
            written += 1

        try:
            yield write
            writer.release()
            if not written or _frames_in(unfinished) != written:  # OpenCV reports neither a full disk nor a wrong size
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

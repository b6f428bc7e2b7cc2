"""Drawing MOS and caption on a frame, in a dark band along its lower edge."""

from functools import lru_cache

import cv2
import numpy as np

MOST_LINES = 4
_SIZE = 0.05
"""Height of the letters as a part of the frame's shorter side."""
_SMALLEST, _LARGEST = 10, 96
_DIMMED = 0.35
"""The frame's brightness under the text is multiplied by this."""
_WHITE, _AMBER = (255, 255, 255), (80, 200, 255)
_REGULAR, _BOLD = 400, 700


def _font() -> cv2.FontFace:
    """OpenCV's built-in font covers most scripts; letters it lacks become question marks."""
    return cv2.FontFace("sans")


@lru_cache(maxsize=1024)
def _width(text: str, size: int, weight: int) -> int:
    return cv2.getTextSize((0, 0), text, (0, 0), _font(), size, weight)[2]


def _cut(text: str, room: int, size: int) -> str:
    """The longest beginning of the text that fits into `room` pixels with an ellipsis."""
    while text and _width(text + "…", size, _REGULAR) > room:
        text = text[:-1].rstrip()
    return text + "…"


@lru_cache(maxsize=64)
def wrapped_lines(text: str, room: int, indent: int, size: int) -> tuple[str, ...]:
    """Text wrapped into lines of `room` pixels, the first one shorter by `indent`; cut after MOST_LINES lines."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if _width(joined, size, _REGULAR) <= room - (indent if len(lines) == 1 else 0):
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], " ".join(lines[MOST_LINES - 1 :])]
    rooms = [room - indent, *(room for _ in lines[1:])]
    return tuple(
        line if _width(line, size, _REGULAR) <= space else _cut(line, space, size)
        for line, space in zip(lines, rooms, strict=True)
    )


def draw_text(frame: np.ndarray, title: str, text: str) -> np.ndarray:
    """A copy of a BGR frame, uint8 [H, W, 3], with the title followed by the text in a band; long text is cut.

    Without title and text a plain copy.
    """
    if not title and not text:
        return frame.copy()
    height, width = frame.shape[:2]
    size = min(max(round(_SIZE * min(height, width)), _SMALLEST), _LARGEST)
    margin, pitch = max(size // 2, 2), round(1.3 * size)
    indent = _width(title, size, _BOLD) + size // 2 if title else 0
    lines = wrapped_lines(text, width - 2 * margin, indent, size)
    top = max(height - len(lines) * pitch - margin, 0)
    drawn = frame.copy()
    drawn[top:] = cv2.convertScaleAbs(frame[top:], alpha=_DIMMED)
    base = height - (len(lines) - 1) * pitch - margin
    if title:
        cv2.putText(drawn, title, (margin, base), _AMBER, _font(), size, _BOLD)
    for index, line in enumerate(lines):
        place = margin + (0 if index else indent), base + index * pitch
        cv2.putText(drawn, line, place, _WHITE, _font(), size, _REGULAR)
    return drawn

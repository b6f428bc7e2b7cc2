"""A contact sheet: photos with a title and a caption below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from src.plots.style import GRAY, INK, WIDTH, boxes_for_missing_glyphs, picture

_EDGE, _GAP = 0.12, 0.16
_WIDEST = 2.6
_TITLE = FontProperties(family="DejaVu Sans", size=9, weight="bold")
_CAPTION = FontProperties(family="DejaVu Sans", size=9)
_LINE = 0.165
_MOST_LINES = 8
Size = tuple[float, float]
"""Width and height, or the place of a point, in inches."""
_HINTING = 1.03
"""Hinted letters, on whole pixels, come out up to this much wider than their outlines."""


def _width(text: str, font: FontProperties) -> float:
    """Width of one line of text in inches."""
    return _HINTING * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _pieces(word: str, width: float, font: FontProperties) -> list[str]:
    """A word cut into pieces that fit into the width; mostly one."""
    if _width(word, font) <= width:
        return [word]
    pieces = [""]
    for letter in word:
        if pieces[-1] and _width(pieces[-1] + letter, font) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def wrap(text: str, width: float, font: FontProperties, most: int = _MOST_LINES) -> list[str]:
    """Break text into lines no wider than `width` inches as printed; beyond `most` lines it ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        for index, piece in enumerate(_pieces(word, width, font)):
            joined = f"{lines[-1]} {piece}" if lines and not index else piece
            if lines and not index and _width(joined, font) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and _width(last + "…", font) > width:
        last = last.rpartition(" ")[0] or last[:-1]
    return [*lines[: most - 1], last + "…"]


def draw_examples(
    photos: np.ndarray, titles: Sequence[str], captions: Sequence[str], out: Path, columns: int = 4
) -> None:
    """Draw a contact sheet as a PNG, at most 1600 pixels wide: each photo, below it its title and its caption.

    photos: uint8 [K, H, W, C], C 1 or 3, K >= 1. titles, captions: K each; captions are wrapped, and cut after eight
    lines. Raises ValueError where the arguments do not fit together.
    """
    if photos.dtype != np.uint8 or photos.ndim != 4 or photos.shape[3] not in (1, 3) or len(photos) == 0:
        raise ValueError(f"photos: expected uint8 [K, H, W, 1 or 3], got {photos.dtype} {photos.shape}")
    if not len(photos) == len(titles) == len(captions) or columns < 1:
        raise ValueError(f"{len(photos)} photos, {len(titles)} titles, {len(captions)} captions, {columns} columns")
    wide = min(_WIDEST, (WIDTH - 2 * _EDGE + _GAP) / columns - _GAP)
    cell = (wide, wide * photos.shape[1] / photos.shape[2])
    with boxes_for_missing_glyphs():
        texts = [
            (wrap(title, wide, _TITLE, most=2), wrap(caption, wide, _CAPTION))
            for title, caption in zip(titles, captions, strict=True)
        ]
    rows = [slice(start, start + columns) for start in range(0, len(photos), columns)]
    lines = [max(len(title) + max(len(caption), 1) for title, caption in texts[row]) for row in rows]
    heights = [cell[1] + 0.06 + _LINE * most for most in lines]
    across = min(columns, len(photos))
    size = (2 * _EDGE + across * (wide + _GAP) - _GAP, 2 * _EDGE + sum(heights) + _GAP * (len(heights) - 1))
    with picture(out, *size, constrained=False) as figure:
        top = size[1] - _EDGE
        for row, height in zip(rows, heights, strict=True):
            for place, (photo, text) in enumerate(zip(photos[row], texts[row], strict=True)):
                _draw_photo(figure, (_EDGE + place * (wide + _GAP), top), cell, photo, *text)
            top -= height + _GAP


def _draw_photo(
    figure: Figure, corner: Size, cell: Size, photo: np.ndarray, title: list[str], caption: list[str]
) -> None:
    """A photo and the lines of text below it. corner: its upper left, from the figure's lower left."""
    (width, height), (left, top) = figure.get_size_inches(), corner
    axes = figure.add_axes((left / width, (top - cell[1]) / height, cell[0] / width, cell[1] / height))
    axes.set_axis_off()
    shown = photo[..., 0] if photo.shape[2] == 1 else photo
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="bicubic", aspect="auto")
    y = top - cell[1] - 0.06
    lines = [(line, _TITLE, INK) for line in title] + [(line, _CAPTION, INK) for line in caption]
    for line, font, colour in lines if caption else [*lines, ("(no caption)", _CAPTION, GRAY)]:
        figure.text(left / width, y / height, line, va="top", fontproperties=font, color=colour)
        y -= _LINE

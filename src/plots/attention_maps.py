"""Where a captioner looked at each word, laid over the photo: one panel a word."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from src.plots.example_photos import wrap
from src.plots.style import GRAY, INK, ORANGE, WIDTH, boxes_for_missing_glyphs, picture

COLUMNS = 5
BLUR = 0.4
"""Standard deviation of the Gaussian as a part of a cell: it takes the edges off, and keeps neighbours apart."""
BOXES = 4
"""Boxes drawn a word: the strongest."""
_EDGE, _GAP = 0.12, 0.14
_LINE = 0.19
_TALLEST = 3.4
_PIXELS = 640
_UNSEEN = 0.35
_WORD = FontProperties(family="DejaVu Sans", size=9, weight="bold")
_HEADING = FontProperties(family="DejaVu Sans", size=11, weight="bold")
_NOTE = FontProperties(family="DejaVu Sans", size=8.5)

Seen = tuple[int, int, int, int]


def lay_over(cells: np.ndarray, seen: Seen, height: int, width: int) -> np.ndarray:
    """Weights of a grid's cells at each pixel of a photo: float32 [height, width], 0 where the grid does not reach.

    cells: float [h, w]. seen: where the grid lies, as top, left, height, width in the photo's pixels; it may reach
    beyond the photo. Bilinear between the centres of the cells, then blurred by a Gaussian of BLUR cells.
    """
    top, left, high, wide = seen
    fine = cv2.resize(np.ascontiguousarray(cells, np.float32), (wide, high), interpolation=cv2.INTER_LINEAR)
    sigma = BLUR * wide / cells.shape[1], BLUR * high / cells.shape[0]
    fine = cv2.GaussianBlur(fine, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1], borderType=cv2.BORDER_REPLICATE)
    laid = np.zeros((height, width), np.float32)
    rows, columns = slice(max(top, 0), min(top + high, height)), slice(max(left, 0), min(left + wide, width))
    laid[rows, columns] = fine[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return laid


def heat(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The photo uint8 [H, W, 3], grey and darker, under the weights [H, W] in colour; the greatest is the brightest."""
    share = weights / max(float(weights.max()), 1e-12)
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[:, :, None] * 0.7
    colour = colormaps["inferno"](0.3 + 0.6 * share)[:, :, :3] * 255
    opacity = 0.6 * share[:, :, None]
    return np.clip(gray * (1 - opacity) + colour * opacity, 0, 255).astype(np.uint8)


def _shrunk(photo: np.ndarray, seen: Seen) -> tuple[np.ndarray, Seen]:
    """The photo with at most _PIXELS on its long side, and `seen` on that scale: no panel shows more."""
    scale = min(1.0, _PIXELS / max(photo.shape[:2]))
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    if scale < 1:
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    top, left, high, wide = (round(length * scale) for length in seen)
    return photo, (top, left, max(high, 1), max(wide, 1))


def _darken_unseen(photo: np.ndarray, seen: Seen) -> np.ndarray:
    """The photo with what the captioner was not shown in the dark."""
    top, left, high, wide = seen
    dark = (photo * _UNSEEN).astype(np.uint8)
    rows, columns = slice(max(top, 0), top + high), slice(max(left, 0), left + wide)
    dark[rows, columns] = photo[rows, columns]
    return dark


def _draw_boxes(axes: Axes, boxes: np.ndarray, weights: np.ndarray, seen: Seen) -> None:
    """The strongest boxes, the stronger the bolder."""
    top, left, high, wide = seen
    for index in np.argsort(-weights, kind="stable")[:BOXES][::-1]:
        share = float(weights[index] / max(weights.max(), 1e-12))
        x1, y1, x2, y2 = boxes[index] * (wide, high, wide, high) + (left, top, left, top)
        line = {"fill": False, "edgecolor": ORANGE, "linewidth": 0.6 + 2.4 * share, "alpha": max(share, 0.15)}
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **line))


def _draw_panel(
    axes: Axes, photo: np.ndarray, weights: np.ndarray | None, layout: tuple | np.ndarray, seen: Seen
) -> None:
    """The photo, under the weights of one word where they are given."""
    height, width = photo.shape[:2]
    boxes = isinstance(layout, np.ndarray)
    shown = photo
    if weights is not None and not boxes:
        shown = heat(photo, lay_over(weights.reshape(layout), seen, height, width))
    axes.imshow(shown, interpolation="bilinear", aspect="auto", extent=(0, width, height, 0))
    if weights is not None and boxes:
        _draw_boxes(axes, layout, weights, seen)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def _check(photo: np.ndarray, words: Sequence[str], weights: np.ndarray, layout: tuple | np.ndarray) -> None:
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo: expected uint8 [H, W, 3], got {photo.dtype} {photo.shape}")
    parts = len(layout) if isinstance(layout, np.ndarray) else layout[0] * layout[1]
    if weights.shape != (len(words), parts) or not words:
        raise ValueError(f"{len(words)} words, weights {weights.shape}, {parts} parts")


def draw_attention(
    photo: np.ndarray,
    words: Sequence[str],
    weights: np.ndarray,
    layout: tuple[int, int] | np.ndarray,
    seen: Seen,
    out: Path,
    title: str,
    parts: str = "cells of the grid",
) -> None:
    """Draw a PNG: the photo, then one panel a word with where the captioner looked when it wrote that word.

    photo: uint8 [H, W, 3]. weights: float [T, N], one row a word, over the cells of a grid (`layout` is its height
    and width) or over regions (`layout` is their boxes [N, 4]: x1, y1, x2, y2 as parts of what the captioner saw).
    seen: where what it saw lies over the photo, as in `lay_over`. parts: what the N are, in words. Each panel is
    scaled by itself; its factor says how much the strongest part outweighs an equal share.
    Raises ValueError where the arguments do not fit together.
    """
    _check(photo, words, weights, layout)
    photo, seen = _shrunk(photo, seen)
    photo = _darken_unseen(photo, seen)
    wide = min((WIDTH - 2 * _EDGE + _GAP) / COLUMNS - _GAP, _TALLEST * photo.shape[1] / photo.shape[0])
    high = wide * photo.shape[0] / photo.shape[1]
    step = wide + _GAP, high + _LINE + _GAP
    rows, columns = -(-(len(words) + 1) // COLUMNS), min(COLUMNS, len(words) + 1)
    across = max(2 * _EDGE + columns * step[0] - _GAP, WIDTH / 2)
    note = f"×: the strongest of {weights.shape[1]} {parts} against an equal share; each panel on a scale of its own"
    with boxes_for_missing_glyphs():
        head = [(line, _HEADING, INK, 0.22) for line in wrap(title, across - 2 * _EDGE, _HEADING, most=3)]
        head += [(line, _NOTE, GRAY, _LINE) for line in wrap(note, across - 2 * _EDGE, _NOTE)]
        names = ["photo", *(wrap(word, wide - 0.45, _WORD, most=1)[0] for word in words)]
    top = _EDGE + sum(line[3] for line in head) + 0.08
    size = across, top + rows * step[1] - _GAP + _EDGE
    with picture(out, *size, layout=None) as figure:
        y = _EDGE
        for line, font, colour, below in head:
            figure.text(_EDGE / across, 1 - y / size[1], line, va="top", fontproperties=font, color=colour)
            y += below
        for place, name in enumerate(names):
            left, lower = _EDGE + place % COLUMNS * step[0], top + place // COLUMNS * step[1] + _LINE + high
            axes = figure.add_axes((left / across, 1 - lower / size[1], wide / across, high / size[1]))
            _draw_panel(axes, photo, weights[place - 1] if place else None, layout, seen)
            above = {"va": "bottom", "transform": axes.transAxes}
            axes.text(0, 1 + 0.04 / high, name, fontproperties=_WORD, color=INK if place else GRAY, **above)
            if place:
                factor = f"×{weights[place - 1].max() * weights.shape[1]:.1f}"
                axes.text(1, 1 + 0.04 / high, factor, fontproperties=_NOTE, color=GRAY, ha="right", **above)

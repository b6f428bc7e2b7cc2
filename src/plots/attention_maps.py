"""Attention of a captioner at each word, drawn over the photo: one panel per word (Xu et al. 2015)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
"""Standard deviation of the Gaussian in cells: enough to smooth the edges, too little to merge neighbours."""
BOXES = 4
"""Boxes drawn per word: those with the highest weights."""
_EDGE, _GAP = 0.12, 0.14
_LINE = 0.19
_TALLEST = 3.4
_PIXELS = 640
_OUTSIDE = 0.35
_WORD = FontProperties(family="DejaVu Sans", size=9, weight="bold")
_HEADING = FontProperties(family="DejaVu Sans", size=11, weight="bold")
_NOTE = FontProperties(family="DejaVu Sans", size=8.5)

ViewBox = tuple[int, int, int, int]
"""Where the captioner's view lies over the photo: top, left, height, width in pixels; it may reach beyond it."""
Layout = tuple[int, int] | np.ndarray
"""Height and width of a grid, or boxes [N, 4]: x1, y1, x2, y2 as fractions of the view."""


def upsample(cells: np.ndarray, view: ViewBox, height: int, width: int) -> np.ndarray:
    """Weights of a grid's cells at each pixel of a photo: float32 [height, width], 0 outside the grid.

    cells: float [h, w]. view: where the grid lies. Bilinear between the centres of the cells, then blurred by a
    Gaussian of BLUR cells.
    """
    top, left, high, wide = view
    fine = cv2.resize(np.ascontiguousarray(cells, np.float32), (wide, high), interpolation=cv2.INTER_LINEAR)
    sigma = BLUR * wide / cells.shape[1], BLUR * high / cells.shape[0]
    fine = cv2.GaussianBlur(fine, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1], borderType=cv2.BORDER_REPLICATE)
    weights = np.zeros((height, width), np.float32)
    rows, columns = slice(max(top, 0), min(top + high, height)), slice(max(left, 0), min(left + wide, width))
    weights[rows, columns] = fine[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return weights


def heat(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The photo uint8 [H, W, 3] in dark grey with the weights [H, W] over it in colour, the greatest brightest."""
    share = weights / max(float(weights.max()), 1e-12)
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[:, :, None] * 0.7
    colour = colormaps["inferno"](0.3 + 0.6 * share)[:, :, :3] * 255
    opacity = 0.6 * share[:, :, None]
    return np.clip(gray * (1 - opacity) + colour * opacity, 0, 255).astype(np.uint8)


def _fitted(photo: np.ndarray, view: ViewBox) -> tuple[np.ndarray, ViewBox]:
    """The photo with at most _PIXELS on its long side, dark outside the captioner's view; the view on that scale."""
    scale = min(1.0, _PIXELS / max(photo.shape[:2]))
    if scale < 1:
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    top, left, high, wide = (round(length * scale) for length in view)
    high, wide = max(high, 1), max(wide, 1)
    dark = (photo * _OUTSIDE).astype(np.uint8)
    seen = slice(max(top, 0), top + high), slice(max(left, 0), left + wide)
    dark[seen] = photo[seen]
    return dark, (top, left, high, wide)


def _draw_panel(axes: Axes, photo: np.ndarray, weights: np.ndarray | None, layout: Layout, view: ViewBox) -> None:
    """The photo, with the weights [N] of one word over it where they are given.

    Of boxes those of the highest weights; line width and opacity follow the weight.
    """
    height, width = photo.shape[:2]
    if weights is not None and not isinstance(layout, np.ndarray):
        photo = heat(photo, upsample(weights.reshape(layout), view, height, width))
    axes.imshow(photo, interpolation="bilinear", aspect="auto", extent=(0, width, height, 0))
    if weights is not None and isinstance(layout, np.ndarray):
        top, left, high, wide = view
        for index in np.argsort(-weights, kind="stable")[:BOXES][::-1]:
            share = float(weights[index] / max(weights.max(), 1e-12))
            x1, y1, x2, y2 = layout[index] * (wide, high, wide, high) + (left, top, left, top)
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=ORANGE,
                                     linewidth=0.6 + 2.4 * share, alpha=max(share, 0.15)))  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def draw_attention(
    photo: np.ndarray, words: Sequence[str], weights: np.ndarray, layout: Layout, view: ViewBox, out: Path, title: str,
    parts: str = "cells of the grid",
) -> None:  # fmt: skip
    """Draw a PNG: the photo, then one panel per word with the attention at that word.

    photo: uint8 [H, W, 3]. weights: float [T, N], a row per word, over the cells of a grid or over boxes, see `Layout`.
    parts: the name of the N. Each panel has a colour scale of its own; its factor is the highest weight over 1 / N.
    Raises ValueError where the arguments do not fit together.
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo: expected uint8 [H, W, 3], got {photo.dtype} {photo.shape}")
    count = len(layout) if isinstance(layout, np.ndarray) else layout[0] * layout[1]
    if weights.shape != (len(words), count) or not words:
        raise ValueError(f"{len(words)} words, weights {weights.shape}, {count} parts")
    photo, view = _fitted(photo, view)
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
    with picture(out, *size, constrained=False) as figure:
        y = _EDGE
        for line, font, colour, below in head:
            figure.text(_EDGE / across, 1 - y / size[1], line, va="top", fontproperties=font, color=colour)
            y += below
        for place, name in enumerate(names):
            left, lower = _EDGE + place % COLUMNS * step[0], top + place // COLUMNS * step[1] + _LINE + high
            axes = figure.add_axes((left / across, 1 - lower / size[1], wide / across, high / size[1]))
            _draw_panel(axes, photo, weights[place - 1] if place else None, layout, view)
            style: dict[str, Any] = {"va": "bottom", "transform": axes.transAxes}
            axes.text(0, 1 + 0.04 / high, name, fontproperties=_WORD, color=INK if place else GRAY, **style)
            if place:
                factor = f"×{weights[place - 1].max() * weights.shape[1]:.1f}"
                axes.text(1, 1 + 0.04 / high, factor, fontproperties=_NOTE, color=GRAY, ha="right", **style)

"""Views of a photo's pixels: the square that the network sees, native crops, the photo at its own aspect."""

import dataclasses
import math

import cv2
import numpy as np

from src.settings.schema import ViewSettings

NEVER_REDUCED = 1 << 30
"""A short side in pixels that no photo has."""
LEAST_SIDE = 32
_MARGIN = 1.5
"""A JPEG may be decoded at 1/2, 1/4 or 1/8 scale while it stays that many times larger than what is needed. The decoder
averages in the frequency domain; the rest is averaged by area, and the two differ by about a grey level."""


def needed_short_side(view: ViewSettings, least: int) -> int:
    """The short side, in pixels, below which a JPEG is not decoded for this view; `least` at least."""
    if view.fit == "native":
        return NEVER_REDUCED
    return max(math.ceil(_MARGIN * view.size), least)


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaging over area where an axis shrinks, linear where it grows; uint8 [H, W, C] → [height, width, C]."""
    shrunk = (min(width, pixels.shape[1]), min(height, pixels.shape[0]))
    if shrunk != (pixels.shape[1], pixels.shape[0]):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(height, width, -1)


def to_view(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    """The square view of a photo, uint8 [H, W, 3] → uint8 [size, size, C], where C is 1 for a gray view.

    native: the first of `native_crops`. squash: the aspect ratio is given up. pad: the photo is centred on black.
    crop: its central square. gray: luma by the weights of ITU-R BT.601.
    """
    if view.fit == "native":
        return native_crops(rgb, dataclasses.replace(view, crops=1))[0]
    height, width = rgb.shape[:2]
    size = view.size
    if view.fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        rgb = np.ascontiguousarray(rgb[top : top + side, left : left + side])
    if view.fit == "pad":
        scale = size / max(height, width)
        inner = _resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        square = np.zeros((size, size, 3), np.uint8)
        top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
        square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    else:
        square = _resize(rgb, size, size)
    return _coloured(square, view)


def at_own_aspect(rgb: np.ndarray, long_side: int, view: ViewSettings) -> np.ndarray:
    """A photo at its own aspect ratio, its long side at most that long: uint8 [H, W, 3] → uint8 [h, w, C].

    Neither side becomes shorter than LEAST_SIDE: encoders halve a photo five times.
    """
    scale = min(1.0, long_side / max(rgb.shape[:2]))
    height, width = (max(LEAST_SIDE, round(side * scale)) for side in rgb.shape[:2])
    return _coloured(_resize(rgb, height, width), view)


def native_crops(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    """Crops at native resolution, uint8 [crops, size, size, C]; a photo smaller than a crop is enlarged first.

    The first lies in the centre, and any number of them spreads evenly: positions follow the R2 sequence (Roberts 2018,
    The Unreasonable Effectiveness of Quasirandom Sequences).
    """
    size, scale = view.size, view.size / min(rgb.shape[:2])
    if scale > 1:
        rgb = _resize(rgb, max(size, round(rgb.shape[0] * scale)), max(size, round(rgb.shape[1] * scale)))
    slack = np.array(rgb.shape[:2]) - size
    steps = np.arange(view.crops)[:, None] * [0.5698402909980532, 0.7548776662466927]
    corners = np.rint((0.5 + steps) % 1 * slack).astype(int)
    return np.stack([_coloured(rgb[top : top + size, left : left + size], view) for top, left in corners])


def _coloured(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None] if view.color == "gray" else rgb

"""Drawing tools for the synthetic scenes of the demo competition: gradients, textures, masks, shading.

Points are (x, y) in pixels. A mask is a float32 array [H, W] within 0..1 with smooth edges.
"""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

Colour = Sequence[float] | np.ndarray
Point = tuple[float, float]
Points = Sequence[Point] | np.ndarray
_SUBPIXEL = 4  # bits of the fixed-point coordinates that OpenCV draws with


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB of a hue in turns (0 red, 1/3 green, 2/3 blue; wraps), saturation and value, which are clipped to 0..1."""
    clipped = (min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, *clipped), np.float32)


def mix(first: Colour, second: Colour, share: float) -> np.ndarray:
    """`share` of the second colour, the rest of the first."""
    return np.asarray(first, np.float32) * np.float32(1 - share) + np.asarray(second, np.float32) * np.float32(share)


def fractal(
    rng: np.random.Generator, height: int, width: int, cells: float = 4, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Fractal noise [H, W] within 0..1.

    cells: blobs along the width in the coarsest octave; stretch: how many times wider than high a blob is.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = max(2, round(cells * 2**octave))
        down = max(2, round(cells * 2**octave * stretch * height / width))
        grid = rng.random((down + 1, across + 1), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def around(centre: Point, size: float, *offsets: Point) -> list[Point]:
    """The points that lie `size` times each offset away from `centre`."""
    return [(centre[0] + size * x, centre[1] + size * y) for x, y in offsets]


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """The mask with edges blurred by `sigma` pixels."""
    return cv2.GaussianBlur(mask, (0, 0), sigma)


def _fixed(points: Points) -> np.ndarray:
    return np.round(np.asarray(points, np.float64) * 2**_SUBPIXEL).astype(np.int32)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns outside of which the mask is zero: most masks are small, and time is spent by the pixel."""
    left, top, width, height = cv2.boundingRect((mask > 0).view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


class Canvas:
    """A picture, `pixels` float32 RGB [H, W, 3] within 0..1, display-referred. take: what its noise is drawn from."""

    def __init__(self, take: np.random.Generator, pixels: np.ndarray):
        self.take, self.pixels, self.shape = take, pixels, pixels.shape[:2]

    def noise(self, cells: float = 4, octaves: int = 4, stretch: float = 1.0) -> np.ndarray:
        """`fractal` of the canvas' size."""
        height, width = self.shape
        return fractal(self.take, height, width, cells, octaves, stretch)

    def ridge(self, base: float, swing: float, cells: float, octaves: int) -> np.ndarray:
        """A skyline [W] around row `base`, `swing` rows up and down, with `cells` hills across."""
        return base + swing * (2 * fractal(self.take, 2, self.shape[1], cells, octaves)[0] - 1)

    def polygon(self, points: Points) -> np.ndarray:
        """Mask of a filled polygon."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(mask, [_fixed(points)], 255, cv2.LINE_AA, _SUBPIXEL)
        return mask.astype(np.float32) / 255

    def ellipse(self, centre: Point, axes: Point, angle: float = 0.0) -> np.ndarray:
        """Mask of a filled ellipse with half-axes `axes`, turned by `angle` degrees."""
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        x, y = axes[0] * np.cos(turn), axes[1] * np.sin(turn)
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return self.polygon(np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1))

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """Mask of a rectangle along the axes."""
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])

    def below(self, edge: np.ndarray | float) -> np.ndarray:
        """Mask of everything under row `edge`, a number or one for each column [W]."""
        height, width = self.shape
        rows = np.arange(height, dtype=np.float32)[:, None]
        return np.clip(rows - np.broadcast_to(edge, width)[None].astype(np.float32) + 0.5, 0, 1)

    def paint(self, mask: np.ndarray, colour: Colour, noise: np.ndarray | None = None, amount: float = 0.0) -> None:
        """Blend a colour, or a picture of the canvas' size, over the canvas by the mask; then give it texture."""
        window, colour = _window(mask), np.asarray(colour, np.float32)
        patch = self.pixels[window]
        patch += mask[window][..., None] * ((colour[window] if colour.ndim == 3 else colour) - patch)
        if noise is not None:
            self.texture(mask, noise, amount)

    def scale(self, mask: np.ndarray, factor: float | np.ndarray) -> None:
        """Multiply brightness by `factor`, a number or an array [H, W], by the mask."""
        window, factor = _window(mask), np.asarray(factor, np.float32)
        patch = self.pixels[window]
        patch *= (1 + mask[window] * ((factor[window] if factor.ndim == 2 else factor) - 1))[..., None]

    def texture(self, mask: np.ndarray | None, noise: np.ndarray, amount: float) -> None:
        """Give the masked part, or the whole, texture: brightness varies by ±`amount` with noise in 0..1."""
        self.scale(np.ones(self.shape, np.float32) if mask is None else mask, 1 + amount * (2 * noise - 1))

    def glow(self, centre: Point, radius: float, colour: Colour, amount: float) -> None:
        """Add light that falls off around `centre` as a Gaussian of `radius` pixels."""
        rows, columns = np.ogrid[: self.shape[0], : self.shape[1]]
        squared = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2
        light = np.exp(-squared / np.float32(2 * radius**2)).astype(np.float32)
        self.pixels += np.float32(amount) * light[..., None] * np.asarray(colour, np.float32)

    def shadow(self, centre: Point, axes: Point, amount: float) -> None:
        """Darken a soft ellipse by the share `amount`."""
        self.scale(soften(self.ellipse(centre, axes), max(1.0, 0.3 * min(axes))), 1 - amount)

    def ball(self, centre: Point, radius: float, colour: Colour) -> None:
        """A glossy sphere lit from the upper left: Lambert shading and a highlight."""
        top, left = (max(0, int(middle - radius) - 2) for middle in (centre[1], centre[0]))
        patch = self.pixels[top : int(centre[1] + radius) + 3, left : int(centre[0] + radius) + 3]
        rows, columns = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
        x, y = (columns - centre[0]) / np.float32(radius), (rows - centre[1]) / np.float32(radius)
        distance = np.sqrt(x**2 + y**2)
        z = np.sqrt(np.clip(1 - distance**2, 0, 1))
        facing = np.clip(-0.5 * x - 0.6 * y + z * np.sqrt(1 - 0.5**2 - 0.6**2), 0, 1)
        shaded = (0.25 + 0.8 * facing)[..., None] * np.asarray(colour, np.float32) + 0.5 * (facing**24)[..., None]
        cover = np.clip((1 - distance) * np.float32(radius) + 0.5, 0, 1).astype(np.float32)
        patch += cover[..., None] * (shaded - patch)

    def strokes(self, lines: Sequence[Points], colour: Colour, thickness: float) -> None:
        """Polylines of one colour, anti-aliased. thickness: pixels."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.polylines(mask, list(map(_fixed, lines)), False, 255, max(1, round(thickness)), cv2.LINE_AA, _SUBPIXEL)
        self.paint(mask.astype(np.float32) / 255, colour)


def backdrop(
    take: np.random.Generator, height: int, width: int, colours: Sequence[Colour], stops: Sequence[float]
) -> Canvas:
    """A canvas with a vertical gradient: `colours` at `stops`, fractions of the height."""
    rows = (np.arange(height) + 0.5) / height
    columns = np.stack([np.interp(rows, stops, [colour[c] for colour in colours]) for c in range(3)], axis=1)
    return Canvas(take, np.repeat(columns[:, None].astype(np.float32), width, axis=1))

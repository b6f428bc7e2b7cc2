"""The distortions of the demo competition: what each does to the pixels, and how much it impairs a photo.

Strengths are physical (pixels, grey levels, exposure values ...). Impairment is measured in the units of
Recommendation ITU-R BT.500-11, Annex 2: a distortion of magnitude D has J = (D / D_M) ** (1 / G) units, units of
simultaneous distortions add, and the mean score falls as p = 1 / (1 + J), which is logistic in log D.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

Operation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GAMMA = 2.2


def blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian defocus of `sigma` pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def motion(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """A straight camera movement over `length` pixels in a random direction."""
    angle, half, size = rng.uniform(0, np.pi), length / 2, int(np.ceil(length / 2)) * 2 + 1
    kernel = np.zeros((size, size), np.float32)
    along = np.linspace(-half, half, 8 * size)
    cells = np.round(np.stack([along * np.sin(angle), along * np.cos(angle)]) + size // 2).astype(int)
    np.add.at(kernel, tuple(cells), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def exposed(sign: int, image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Exposure raised (sign 1) or lowered (-1) by `stops` exposure values, in linear light, highlights clipped."""
    return np.minimum(image * np.float32(2.0 ** (sign * stops / _GAMMA)), 1.0)


def flat(image: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Contrast divided by `ratio` around the photo's mean, moved towards middle grey: a veil of haze."""
    mean = image.mean()
    return (image - mean) / np.float32(ratio) + (mean + 0.55) / 2


def saturated(sign: int, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Saturation raised (sign 1; a share of 1 doubles it) or lowered (-1; a share of 1 leaves black and white)."""
    grey = (image @ _LUMA)[..., None]
    return np.clip(grey + np.float32(1.0 + sign * share) * (image - grey), 0.0, 1.0)


def cast(gains: tuple[float, float, float], image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    """White balance off by `stops` exposure values between the strongest and the weakest channel."""
    return np.clip(image * np.float32(2.0) ** (np.array(gains, np.float32) * np.float32(stops / _GAMMA)), 0.0, 1.0)


def noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian sensor noise with a standard deviation of `level` grey levels, most of it in luminance."""
    shape = image.shape
    grain = 0.85 * rng.standard_normal((*shape[:2], 1), np.float32) + 0.53 * rng.standard_normal(shape, np.float32)
    return image + np.float32(level / 255.0) * grain


def banding(image: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Posterised: every channel in steps of about `step` grey levels, black and white kept."""
    share = np.float32(step / 255.0)
    return np.round(image / share) / np.round(1 / share)


def jpeg(image: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG with the standard quantiser tables multiplied by `scale` (libjpeg: quality = 50 / scale)."""
    quality = int(np.clip(round(50.0 / scale), 1, 100))
    pixels = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    _, stream = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / np.float32(255.0)


@dataclass(frozen=True)
class Kind:
    """A kind of distortion: the strengths in use and their impairment units J at both ends."""

    family: str
    apply: Operation
    low: float
    high: float
    mild: float = 0.16
    severe: float = 2.2

    def strength(self, share: float) -> float:
        """The strength at `share` (0 to 1) of the way from low to high in equal ratios (Weber's law)."""
        return float(self.low * (self.high / self.low) ** share)

    def impairment(self, strength: float) -> float:
        """Impairment units J of that strength; 0 for none."""
        exponent = np.log(self.severe / self.mild) / np.log(self.high / self.low)
        return float(self.mild * (strength / self.low) ** exponent)


# in the order in which a camera would cause them; a photo has at most one distortion of a family
KINDS: dict[str, Kind] = {
    "motion": Kind("focus", motion, 4.0, 18.0, severe=2.8),
    "blur": Kind("focus", blur, 0.8, 3.6, severe=2.8),
    "dark": Kind("exposure", partial(exposed, -1), 1.0, 3.6),
    "bright": Kind("exposure", partial(exposed, 1), 0.7, 2.4),
    "flat": Kind("exposure", flat, 1.6, 5.5, severe=1.8),
    "faded": Kind("colour", partial(saturated, -1), 0.5, 1.0, mild=0.2, severe=0.9),
    "garish": Kind("colour", partial(saturated, 1), 0.7, 3.5, mild=0.2, severe=1.4),
    "yellow": Kind("colour", partial(cast, (0.3, 0.0, -0.7)), 0.8, 3.0, severe=1.4),
    "blue": Kind("colour", partial(cast, (-0.7, -0.2, 0.3)), 0.8, 3.0, severe=1.6),
    "green": Kind("colour", partial(cast, (-0.5, 0.3, -0.5)), 0.7, 2.4, severe=1.6),
    "noise": Kind("signal", noise, 9.0, 48.0, severe=2.6),
    "banding": Kind("signal", banding, 28.0, 100.0, severe=1.8),
    "jpeg": Kind("signal", jpeg, 1.8, 14.0, severe=2.6),
}


@dataclass(frozen=True)
class Distortion:
    """A distortion of one photo. strength: in the unit of its kind."""

    kind: str
    strength: float

    @property
    def impairment(self) -> float:
        """Impairment units J."""
        return KINDS[self.kind].impairment(self.strength)


def draw_distortions(rng: np.random.Generator) -> tuple[Distortion, ...]:
    """Distortions of a photo: none in 14% of cases, one in 66%, two of different families in 20%."""
    count = int(rng.choice(3, p=[0.14, 0.66, 0.20]))
    families = sorted({kind.family for kind in KINDS.values()})
    # weighted so that all kinds are about equally frequent although families differ in size
    weights = np.sqrt([sum(kind.family == family for kind in KINDS.values()) for family in families])
    drawn = rng.choice(families, size=count, replace=False, p=weights / weights.sum())
    names = [rng.choice(sorted(name for name, kind in KINDS.items() if kind.family == family)) for family in drawn]
    ceiling = 1.0 if count == 1 else 0.75
    return tuple(Distortion(str(name), KINDS[name].strength(rng.uniform(0.0, ceiling))) for name in names)


def distort(image: np.ndarray, distortions: tuple[Distortion, ...], rng: np.random.Generator) -> np.ndarray:
    """Apply distortions in the order of `KINDS`, whatever order they are given in.

    image: uint8 RGB [H, W, 3]; so is the result.
    """
    order = list(KINDS)
    pixels = image.astype(np.float32) / np.float32(255.0)
    for distortion in sorted(distortions, key=lambda item: order.index(item.kind)):
        pixels = KINDS[distortion.kind].apply(pixels, distortion.strength, rng)
    return np.round(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)

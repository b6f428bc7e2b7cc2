"""From a photo file's bytes to upright RGB pixels, and from there to the square view that the network sees."""

import dataclasses
import io
import math
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from src.settings.schema import ViewSettings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
LARGEST_PHOTO = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Pixels. A larger photo is refused from its header: a small file can unfold to fill the memory."""
MARGIN = 1.5
"""A JPEG may be decoded at 1/2, 1/4 or 1/8 while it stays that many times larger than what is needed. The decoder
averages in the frequency domain; what remains is averaged by area, and the two differ by about a grey level."""
ORIENTATION = 0x0112
_UPRIGHT = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda rgb: np.rot90(rgb),
}


class Unreadable(ValueError):
    """The photo cannot be decoded; the message is the reason in plain words."""


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Broken EXIF fails in many ways inside PIL, and the photo is none the worse for it.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits, three channels; see `decode` for what is lost."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception, content: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a photo in a known format (it begins with {content[:12]!r})"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {LARGEST_PHOTO // 1_000_000} million pixels"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    return " ".join(str(error).split()) or type(error).__name__


def decode(content: bytes, short_side: int) -> np.ndarray:
    """Upright RGB pixels of a photo file, uint8 [H, W, 3].

    short_side: a JPEG of at least twice that is decoded at 1/2, 1/4 or 1/8 scale, no smaller than that.
    EXIF orientation is applied, broken EXIF ignored. CMYK, grey and palette become RGB; transparency is laid over
    white; 16 bits become 8; of an animation the first frame is taken; colour profiles are not applied.
    Raises Unreadable: empty, not a photo, truncated, damaged, above LARGEST_PHOTO, floating-point pixels.
    """
    if not content:
        raise Unreadable("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                orientation = _orientation(image)
                image.draft(None, (short_side, short_side))
                pixels = np.asarray(_to_rgb(image))
        except Unreadable:
            raise
        except Exception as error:  # PIL's decoders raise whatever a damaged file leads them to.
            raise Unreadable(_reason(error, content)) from None
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda rgb: rgb)(pixels))


def needed_short_side(view: ViewSettings, least: int) -> int:
    """The short side, in pixels, below which a JPEG is not decoded for this view; `least` at least."""
    if view.fit == "native":
        return LARGEST_PHOTO  # never at reduced scale
    return max(math.ceil(MARGIN * view.size), least)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaging over area where an axis shrinks, linear where it grows; uint8 [H, W, C] → [height, width, C]."""
    shrunk = (min(width, pixels.shape[1]), min(height, pixels.shape[0]))
    if shrunk != (pixels.shape[1], pixels.shape[0]):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(height, width, -1)


def to_view(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    """The square picture of the view, uint8 [size, size, C].

    native: the first of its pieces, see `native_crops`. squash: the aspect ratio is given up. pad: the photo is centred
    on black. crop: its central square. gray: luma by the weights of ITU-R BT.601.
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
        inner = resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        square = np.zeros((size, size, 3), np.uint8)
        top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
        square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    else:
        square = resize(rgb, size, size)
    return _coloured(square, view)


def native_crops(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    """Pieces of the photo's own pixels, uint8 [crops, size, size, C]; a photo smaller than a piece is enlarged first.

    They spread evenly over the photo from its centre on, however many there are: places follow the R2 sequence
    (Roberts 2018, The Unreasonable Effectiveness of Quasirandom Sequences).
    """
    size, scale = view.size, view.size / min(rgb.shape[:2])
    if scale > 1:
        rgb = resize(rgb, max(size, round(rgb.shape[0] * scale)), max(size, round(rgb.shape[1] * scale)))
    room = np.array(rgb.shape[:2]) - size
    steps = np.arange(view.crops)[:, None] * [0.5698402909980532, 0.7548776662466927]
    places = np.rint((0.5 + steps) % 1 * room).astype(int)
    return np.stack([_coloured(rgb[top : top + size, left : left + size], view) for top, left in places])


def _coloured(rgb: np.ndarray, view: ViewSettings) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None] if view.color == "gray" else rgb

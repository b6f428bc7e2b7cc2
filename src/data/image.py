"""A photo file's bytes become upright RGB pixels, and all that is kept of them."""

import contextlib
import hashlib
import importlib
import io
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import imagehash
import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from src.base.signatures import PHOTO_PLUGINS, known_format
from src.data.handcrafted import DECODED_SHORT_SIDE, handcrafted_features
from src.data.view import native_crops, needed_short_side, to_view
from src.settings.schema import DataSettings, ViewSettings


def _plugins() -> list[str]:
    """The names of the formats that an installed package adds to Pillow's."""
    names = []
    for name, module in PHOTO_PLUGINS.items():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if hasattr(plugin, "register_heif_opener"):  # the other one registers itself
                plugin.register_heif_opener()
            names.append(name)
    return names


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", *_plugins())
# Pillow's own limit would refuse a JPEG before `draft` has made it small; `decode` has one that looks afterwards
Image.MAX_IMAGE_PIXELS = None
DEFAULT_MEGAPIXELS = DataSettings.maximum_megapixels
MAX_FILE_BYTES = 1 << 29
"""A larger file is no photo, and would fill the memory before it could be refused."""
DIGEST_BYTES = 16
_FLAT = 2.0
"""Standard deviation, in grey levels of a 32x32 copy, below which a photo has no structure to hash."""
_HASHED = ViewSettings()
"""The view that is hashed, whatever view is asked for: runs of different views share their folds, and can be joined. It
is made from a JPEG decoded at the scale that DECODED_SHORT_SIDE allows, as are handcrafted features."""
_NEW_SUBFILE_TYPE = 254
"""A tag of TIFF: 1 where an image is a reduced version of another one in the file."""
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright, by its EXIF orientation."""


class Unreadable(ValueError):
    """The photo cannot be decoded; the message is the reason in plain words."""


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation asks.

    The tag is read after loading: Pillow's TIFF loader turns the pixels itself and removes the tag, and a PNG may carry
    it behind its pixels. `PIL.ImageOps.exif_transpose` would fail on EXIF that it cannot write back.
    """
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF fails in many ways inside Pillow, and the photo is none the worse for it
        return image
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


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
        other = known_format(content)
        what = f": it is {other[0]}; {other[1]}" if other else f" (it begins with {content[:12]!r})"
        return f"not a photo in a known format{what}"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    return " ".join(str(error).split()) or type(error).__name__


def _pixels_in_memory(image: Image.Image, whole: int) -> int:
    """How many pixels loading the image will hold, to a factor of two. whole: those of the photo before `draft`.

    libjpeg keeps the coefficients of the whole photo, 3 bytes a pixel at least, where not all colours come in one scan,
    as in a progressive JPEG; otherwise what `draft` asked for.
    """
    reduced = image.width * image.height
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or "progressive" not in image.info and _one_scan(image):
        return reduced
    return max(reduced, whole // 2)


def _one_scan(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether the first scan of a JPEG, behind whose header Pillow has stopped, holds all of its colours."""
    length = 6 + 2 * image.layers
    assert image.fp is not None
    if image.fp.tell() < 2 + length:  # in an MPO, a JPEG of several pictures, it has gone back to the beginning
        return False
    image.fp.seek(-2 - length, io.SEEK_CUR)
    return image.fp.read(2 + length).startswith(b"\xff\xda" + length.to_bytes(2) + bytes([image.layers]))


def _prepare(image: Image.Image, short_side: int, megapixels: int) -> None:
    """Have a JPEG decoded at reduced scale. Raises Unreadable for what would fill the memory, and for raw photos."""
    width, height = image.size
    image.draft(None, (short_side, short_side))
    if _pixels_in_memory(image, width * height) > megapixels * 1_000_000:
        raise Unreadable(
            f"{width} × {height} pixels, more than {megapixels} million; make it smaller, or raise "
            "data.maximum_megapixels"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_NEW_SUBFILE_TYPE) == 1:  # NEF, DNG, ARW
        raise Unreadable("a raw photo, of which only a preview could be read; develop it to JPEG or PNG")


def decode(content: bytes, short_side: int, megapixels: int = DEFAULT_MEGAPIXELS) -> np.ndarray:
    """Upright RGB pixels of a photo file, uint8 [H, W, 3].

    short_side: pixels; a JPEG at least twice that large is decoded at 1/2, 1/4 or 1/8 scale, no smaller than that.
    megapixels: a photo of more million pixels in memory is refused from its header, as a small file can unfold to fill
    the memory; of a JPEG decoded at reduced scale the reduced ones count.
    EXIF orientation is applied, broken EXIF ignored. CMYK, grayscale and palette become RGB; transparency is laid over
    white; 16 bits become 8; of an animation the first frame is taken; colour profiles are not applied.
    Raises Unreadable: empty, not a photo, truncated, damaged, too many pixels, floating-point pixels.
    """
    with _opened(io.BytesIO(content), content, short_side, megapixels) as image:
        return np.array(_to_rgb(_upright(image)))


def header_fault(path: Path, short_side: int, megapixels: int = DEFAULT_MEGAPIXELS) -> str | None:
    """Why a photo file cannot be used, as far as its header tells; None where it may be. Arguments as for `decode`."""
    try:
        _check_file(path)
        with open(path, "rb") as file, _opened(file, file.peek(4096), short_side, megapixels):
            return None
    except ValueError as fault:  # Unreadable is one
        return str(fault)
    except OSError as error:
        return error.strerror or str(error)


@contextlib.contextmanager
def _opened(file: IO[bytes], head: bytes, short_side: int, megapixels: int) -> Iterator[Image.Image]:
    """The photo of a file with its header read; head: its first bytes. Whatever fails inside raises Unreadable."""
    if not head:
        raise Unreadable("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                _prepare(image, short_side, megapixels)
                yield image
        except Unreadable:
            raise
        except Exception as error:  # PIL's decoders raise whatever a damaged file leads them to.
            raise Unreadable(_reason(error, head)) from None


def perceptual_hash(gray: np.ndarray) -> int:
    """The 64-bit DCT hash of a photo, uint8 [H, W] (pHash: Zauner, Implementation and Benchmarking of Perceptual Image
    Hash Functions, 2010); near-duplicates differ in few bits.

    The bits of a flat photo (all black, overexposed) would be those of its noise: it gets a digest of its reduced
    pixels instead, so that only an equal one is its duplicate.
    """
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
    if cv2.meanStdDev(small)[1].item() < _FLAT:
        return int.from_bytes(hashlib.blake2b(small.tobytes(), digest_size=8).digest(), "big")
    return int.from_bytes(np.packbits(imagehash.phash(Image.fromarray(gray)).hash).tobytes())


@dataclass(frozen=True)
class Photo:
    """All that is kept of one photo.

    pixels: uint8 [size, size, C], the view. crops: uint8 [crops - 1, size, size, C], its other native crops.
    handcrafted: float32 [F]. phash: 64 bits. digests: uint8 [16], zeros without a file.
    problem: None, or why the photo is unreadable; then it counts as a black one.
    """

    pixels: np.ndarray
    crops: np.ndarray
    handcrafted: np.ndarray
    phash: int
    digests: np.ndarray
    problem: str | None


def _check_file(path: Path) -> None:
    """Raise ValueError with the reason for what is not read. OSError where it is not there."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"a file of more than {MAX_FILE_BYTES >> 20} MiB")


def load_photo(path: Path, view: ViewSettings, megapixels: int = DEFAULT_MEGAPIXELS) -> Photo:
    """Read and decode the photo once for everything. Never raises for what is wrong with the file.

    megapixels: as for `decode`.
    """
    problem = None
    try:
        _check_file(path)
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
    except (OSError, ValueError) as error:
        content, digest = b"", bytes(DIGEST_BYTES)
        problem = getattr(error, "strerror", None) or str(error)
    try:
        rgb = decode(content, needed_short_side(view, DECODED_SHORT_SIDE), megapixels)
    except Unreadable as error:
        problem = problem or str(error)
        rgb = np.zeros((view.size, view.size, 3), np.uint8)
    views = native_crops(rgb, view) if view.fit == "native" else to_view(rgb, view)[None]
    reduced = rgb
    if content.startswith(b"\xff\xd8") and min(rgb.shape[:2]) >= 2 * DECODED_SHORT_SIDE:  # larger for this view
        reduced = decode(content, DECODED_SHORT_SIDE, megapixels)
    hashed = views[0] if view == _HASHED and reduced is rgb else to_view(reduced, _HASHED)
    phash = perceptual_hash(cv2.cvtColor(hashed, cv2.COLOR_RGB2GRAY))
    return Photo(views[0], views[1:], handcrafted_features(reduced), phash, np.frombuffer(digest, np.uint8), problem)

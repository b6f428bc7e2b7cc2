"""Pictures for tests, and the bytes of photo files, whole and damaged."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw


def drawing(width=96, height=64, seed=0) -> Image.Image:
    """Smooth colours with a red top-left corner, so that its orientation can be seen."""
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(60, 200, (4, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    ImageDraw.Draw(base).rectangle((0, 0, width // 4, height // 4), fill=(250, 10, 10))
    return base


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that promises so many pixels and holds the given ones."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header, for which its data do not suffice."""
    at = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(marker)) > 0) + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


UNREADABLE = {
    "empty": (b"", "empty"),
    "text": (b"this is not a photo", "not a photo in a known format"),
    "truncated": (encoded(drawing(600, 400))[:4000], "truncated"),
    "header_only": (encoded(drawing(), "PNG")[:40], "."),
    "bomb": (png(40_000, 40_000, bytes(1000)), "more than 89 million"),
    "float": (encoded(drawing().convert("F"), "TIFF"), "floating-point"),
}
"""The content of a photo file, and a part of the reason why it is refused."""

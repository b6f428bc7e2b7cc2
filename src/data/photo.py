"""All that is kept of one photo: its view, features, perceptual hash and digest, or why it cannot be read."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.data.handcrafted import DECODED_SHORT_SIDE, handcrafted_features
from src.data.image import Unreadable, decode, native_crops, needed_short_side, to_view
from src.data.perceptual_hash import perceptual_hash
from src.settings.schema import ViewSettings

DIGEST_BYTES = 16
LARGEST_FILE = 1 << 29
"""Bytes. A larger file is no photo, and would fill the memory before it could be refused."""


@dataclass(frozen=True)
class Photo:
    """pixels: uint8 [size, size, C]; crops: uint8 [crops - 1, size, size, C], the other pieces of the view.

    handcrafted: float32 [F]. phash: 64 bits. digests: uint8 [16], zeros without a file.

    problem: None, or why the photo is unreadable; then it counts as a black one.
    """

    pixels: np.ndarray
    crops: np.ndarray
    handcrafted: np.ndarray
    phash: int
    digests: np.ndarray
    problem: str | None


def _read(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"a file of more than {LARGEST_FILE >> 20} MiB")
    return path.read_bytes()


def load_photo(path: Path, view: ViewSettings) -> Photo:
    """Read and decode the photo once for everything. Never raises for what is wrong with the file."""
    problem = None
    try:
        content = _read(path)
        digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
    except (OSError, ValueError) as error:
        content, digest = b"", bytes(DIGEST_BYTES)
        problem = getattr(error, "strerror", None) or str(error)
    try:
        rgb = decode(content, needed_short_side(view, DECODED_SHORT_SIDE))
    except Unreadable as error:
        problem = problem or str(error)
        rgb = np.zeros((view.size, view.size, 3), np.uint8)
    pieces = native_crops(rgb, view) if view.fit == "native" else to_view(rgb, view)[None]
    pixels = pieces[0]
    luma = pixels[:, :, 0] if view.color == "gray" else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    digests = np.frombuffer(digest, np.uint8)
    return Photo(pixels, pieces[1:], handcrafted_features(rgb), perceptual_hash(luma), digests, problem)

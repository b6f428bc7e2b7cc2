"""A 64-bit hash of how a picture looks: near-duplicates differ in few bits."""

import hashlib

import cv2
import numpy as np

SIDE = 32
FLAT = 2.0
"""Standard deviation in grey levels below which a picture has no structure to hash."""


def perceptual_hash(gray: np.ndarray) -> int:
    """DCT hash of a grey picture, uint8 [H, W] (pHash: Zauner, Implementation and Benchmarking of Perceptual Image
    Hash Functions, 2010): the 8x8 lowest frequencies after the constant ones, each above their median or not.

    A flat picture (all black, overexposed) has no signs but those of noise; its hash is a digest of its reduced
    pixels, so that equal ones still meet and unequal ones are far apart.
    """
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if cv2.meanStdDev(small)[1].item() < FLAT:
        return int.from_bytes(hashlib.blake2b(small.tobytes(), digest_size=8).digest(), "big")
    low = cv2.dct(small.astype(np.float32))[1:9, 1:9].ravel()
    bits = np.packbits(low > np.sort(low)[31:33].mean())
    return int.from_bytes(bits.tobytes(), "big")

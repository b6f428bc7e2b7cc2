"""A photo described by how its small patches differ from a codebook of typical patches, learned without any label.

After HOSA (Xu, Ye, Li, Du, Liu and Doermann, Blind Image Quality Assessment Based on High Order Statistics Aggregation,
TIP 2016): patches are normalised and whitened, each goes to its nearest codewords, and the photo is described by how
the mean, variance and skewness of each codeword's patches differ from those of the patches it was learned from. Here
patches are of opponent colours, and what is left of 3 × WORDS × COMPONENTS numbers are principal components.

The codebook comes from pixels of the training photos alone: no test photo and no label has a part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from src.base.randomness import fold_in

PATCH, STRIDE = 7, 4
WORDS, NEAREST = 100, 5
COMPONENTS = 60
"""Of the 147 numbers of a patch, after whitening."""
WIDTH = 256
"""Numbers that describe a photo in the end, or fewer where there are fewer photos to learn from."""
PATCHES = 60
"""Taken of each photo to learn the codewords from."""
_NOISE = 10.0  # grey levels squared: a flat patch is not blown up
_NARROW = 0.05  # how fast the share of a codeword falls with the squared distance
_RARE = 0.5  # patches: below that a codeword says nothing of the photo


@dataclass(frozen=True)
class Codebook:
    """centre [147], whitening [147, C]; words [WORDS, C] and their moments [3, WORDS, C]; offset [D], basis [D, F]."""

    centre: np.ndarray
    whitening: np.ndarray
    words: np.ndarray
    moments: np.ndarray
    offset: np.ndarray
    basis: np.ndarray

    def describe(self, rgb: np.ndarray) -> np.ndarray:
        """float32 [F] of a photo, uint8 [H, W, 3] with sides of at least PATCH."""
        return (self.differences(rgb) - self.offset) @ self.basis

    def differences(self, rgb: np.ndarray) -> np.ndarray:
        """What is aggregated of a photo's patches, before it is reduced: float32 [3 × WORDS × C]."""
        patches = (_patches(rgb, STRIDE) - self.centre) @ self.whitening
        shares = _shares(patches, self.words)
        weight = shares.sum(0)[:, None] + 1e-3
        squares = np.square(patches)
        first, second, third = (shares.T @ powers / weight for powers in (patches, squares, squares * patches))
        variance = np.maximum(second - first**2, 1e-6)
        skewness = (third - 3 * first * second + 2 * first**3) / variance**1.5
        apart = (np.stack([first, variance, skewness]) - self.moments) * (weight > _RARE)
        return (np.sign(apart) * np.sqrt(np.abs(apart))).ravel()  # the power normalisation of Fisher vectors


def learn(photos: Sequence[np.ndarray]) -> Codebook:
    """A codebook from photos, uint8 [H, W, 3] each, at least 2; the same for equal photos in equal order."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(fold_in(0, "codebook"))
    some = (_patches(photo, 2 * STRIDE) for photo in photos)
    patches = np.concatenate([own[rng.permutation(len(own))[:PATCHES]] for own in some])
    centre = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov((patches - centre).T))
    whitening = (vectors / np.sqrt(values.clip(0) + 0.1))[:, ::-1][:, :COMPONENTS].astype(np.float32)
    white = (patches - centre) @ whitening
    means = MiniBatchKMeans(
        min(WORDS, len(white)), batch_size=4096, n_init=1, max_iter=10, random_state=fold_in(0, "words") % 2**32
    ).fit(white)
    words = means.cluster_centers_.astype(np.float32)
    moments = _moments(white, means.labels_, words)
    raw = Codebook(centre, whitening, words, moments, np.zeros(1, np.float32), np.zeros((1, 1), np.float32))
    return Codebook(centre, whitening, words, moments, *_components(np.stack([raw.differences(p) for p in photos])))


def _patches(rgb: np.ndarray, stride: int) -> np.ndarray:
    """Patches of brightness, red-green and blue-yellow: float32 [P, 147]; each channel's mean is taken off, and all are
    divided by the deviation of brightness."""
    red, green, blue = cv2.split(rgb.astype(np.float32))
    planes = np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue])
    windows = sliding_window_view(planes, (PATCH, PATCH), (1, 2))[:, ::stride, ::stride]
    patches = windows.reshape(3, -1, PATCH * PATCH)
    patches -= patches.mean(2, keepdims=True)
    patches /= np.sqrt(np.square(patches[0]).mean(1, keepdims=True) + _NOISE)
    return np.concatenate(list(patches), axis=1)


def _shares(patches: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Each patch shared among its nearest words: float32 [P, WORDS], rows sum to 1."""
    distance = np.square(words).sum(1) - 2 * patches @ words.T
    nearest = np.argpartition(distance, min(NEAREST, len(words)) - 1, axis=1)[:, :NEAREST]
    off = np.take_along_axis(distance, nearest, 1)
    share = np.exp(-_NARROW * (off - off.min(1, keepdims=True)))
    shares = np.zeros_like(distance)
    np.put_along_axis(shares, nearest, share / share.sum(1, keepdims=True), 1)
    return shares


def _moments(patches: np.ndarray, own: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Mean, variance and skewness of each word's patches: float32 [3, WORDS, C]. own: the word of each patch."""
    moments = np.stack([words, np.ones_like(words), np.zeros_like(words)])
    for number in range(len(words)):
        mine = patches[own == number]
        if len(mine) > 3:
            variance = mine.var(0)
            skewness = ((mine - mine.mean(0)) ** 3).mean(0) / (variance**1.5 + 1e-6)
            moments[:, number] = mine.mean(0), variance, skewness
    return moments


def _components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset [D] and basis [D, F] of the principal components of standardised rows [N, D]."""
    offset, spread = rows.mean(0), rows.std(0) + 1e-3
    white = (rows - offset) / spread
    values, vectors = np.linalg.eigh((white @ white.T).astype(np.float64))
    kept = slice(-1, -min(WIDTH, len(rows) - 1) - 1, -1)
    basis = white.T @ vectors[:, kept] / np.sqrt(values[kept].clip(1e-6))
    return offset, (basis / spread[:, None]).astype(np.float32)

"""The bootstrap over photos (Efron 1979). Samples are counts, so that sums over photos are one matrix product."""

from collections.abc import Iterator

import numpy as np

from src.base.randomness import fold_in

_CELLS = 200_000  # of a block of counts, which bounds memory


def resample_counts(photos: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each photo is drawn with replacement: float64 blocks [rows, photos] of `resamples` rows in all.

    A row depends on (photos, seed, row) alone, so that systems scored on the same photos share their draws.
    """
    block = max(1, _CELLS // max(photos, 1))
    for first in range(0, resamples, block):
        rows = range(first, min(first + block, resamples))
        counts = np.empty((len(rows), photos))
        for i, row in enumerate(rows):
            draws = np.random.default_rng(fold_in(seed, "bootstrap", row)).integers(photos, size=photos)
            counts[i] = np.bincount(draws, minlength=photos)
        yield counts


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of the resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)

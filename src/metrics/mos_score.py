"""Agreement of predicted and true mean opinion scores: PLCC, SRCC and the competition's mean of the two."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from pandas import Series

from src.metrics.bootstrap import resample_counts

FEWEST = 3
"""Photos below which a correlation, and so a MOS score, is not defined."""


def is_measurable(truth: ArrayLike) -> bool:
    """Whether predictions of these labels [photos] have a MOS score: fewer than FEWEST or equal ones give none."""
    truth = np.asarray(truth, dtype=np.float64)
    return len(truth) >= FEWEST and np.ptp(truth) > 0


def plcc(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's linear correlation of two vectors [photos]; nan below 3 photos or where one of them is constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"two vectors of one length are needed, not {x.shape} and {y.shape}")
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = _unit(x), _unit(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def _unit(x: np.ndarray) -> np.ndarray:
    x = x / np.abs(x).max()
    x = x - x.mean()
    return x / np.linalg.norm(x)


def srcc(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two vectors [photos], ties at their mean rank; nan as for plcc."""
    return plcc(
        Series(np.asarray(x, float)).rank(), Series(np.asarray(y, float)).rank()
    )  # scipy.stats takes a second to import


def mos_score(pred: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """plcc, srcc and score, the mean of the two after each is clipped at 0 (nan counts as 0)."""
    linear, rank = plcc(pred, truth), srcc(pred, truth)
    return {"plcc": linear, "srcc": rank, "score": float(_score(np.array(linear), np.array(rank)))}


def _score(linear: np.ndarray, rank: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(linear).clip(0) + np.nan_to_num(rank).clip(0)) / 2


def resampled_mos_scores(pred: ArrayLike, truth: ArrayLike, resamples: int, seed: int) -> np.ndarray:
    """The MOS score of each of `resamples` bootstrap samples of the photos; ranks are computed within each.

    Equal seeds draw equal photos, so that two systems can be compared in pairs.
    """
    score = mos_score_of_counts(pred, truth)
    return np.concatenate([score(counts) for counts in resample_counts(np.size(pred), resamples, seed)])


def mos_score_of_counts(pred: ArrayLike, truth: ArrayLike) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each photo is drawn [samples, photos] to the MOS score of each sample [samples]."""
    pred, truth = np.asarray(pred, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    ranks = _Ranks(pred), _Ranks(truth)

    def score(counts: np.ndarray) -> np.ndarray:
        return _score(_correlation(counts, pred, truth), _correlation(counts, ranks[0](counts), ranks[1](counts)))

    return score


class _Ranks:
    """Mean ranks of `values` [photos] in bootstrap samples that hold photo i `counts[:, i]` times."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.group = np.empty(len(values), dtype=np.int64)
        self.group[self.order] = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(values)))

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """counts [samples, photos] → ranks [samples, photos]."""
        sizes = np.add.reduceat(counts[:, self.order], self.starts, axis=1, dtype=np.float64)
        return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, self.group]


def _correlation(counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation in each sample: counts [samples, photos], x and y [photos] or [samples, photos]."""
    x, y = _centred(counts, x), _centred(counts, y)
    weighted = counts * x
    spread = np.einsum("sp,sp->s", weighted, x) * np.einsum("sp,sp->s", counts * y, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("sp,sp->s", weighted, y) / np.sqrt(spread)


def _centred(counts: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x less its mean in each sample [samples, photos]."""
    x = np.broadcast_to(x, counts.shape)
    return x - (np.einsum("sp,sp->s", counts, x) / counts.sum(axis=1))[:, None]

"""Do the test photos come from where the training photos do? A classifier that tries to tell them apart.

The classifier two-sample test (Lopez-Paz and Oquab 2017): where photos that the classifier did not learn from are told
apart better than by chance, the two sets differ. It is Fisher's linear discriminant on features and the squares of the
first of them (a spread can shift without the mean), by ridge least squares: it answers as a logistic regression does,
and learning it anew for each of hundreds of shuffled labels, which shows what chance does, costs a matrix product.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from src.base.randomness import fold_in
from src.metrics.competition_score import mos_block

BLOCKS = 5
"""Parts that the test rows are cut into, in their order."""
SHUFFLES = 199
LEVEL = 0.05
FEWEST = 20
"""Photos of either side below which nothing is said."""
_FOLDS = 5
_MOST = 20.0  # a training photo's greatest weight before weights are scaled to a mean of 1
_ALIKE = 0.25


@dataclass(frozen=True)
class PartShift:
    """How well photos of one part of the test rows are told from the training photos.

    rows: the first of them and the one after the last. interval: 95% of the AUC (DeLong, DeLong and Clarke-Pearson
    1988). p: share of shuffles with an AUC as high. found: whether that is rarer than LEVEL, over all blocks together.
    """

    rows: tuple[int, int]
    auc: float
    interval: tuple[float, float]
    p: float
    found: bool
    likeness: np.ndarray
    """Probability, out of fold, to be of this part rather than of training: float64 [training photos + its photos]."""
    weights: np.ndarray
    """Importance weight of each training photo, mean 1 (Shimodaira 2000); all 1 where no shift was found."""


@dataclass(frozen=True)
class CovariateShift:
    """The shift of all test photos together, and that of each block of rows."""

    whole: PartShift
    blocks: tuple[PartShift, ...]

    @property
    def found(self) -> bool:
        """Whether some part of the test photos differs from the training photos."""
        return self.whole.found or any(block.found for block in self.blocks)


def find_covariate_shift(
    train: np.ndarray, test: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> CovariateShift | None:
    """Look for shift between features of training photos [N, F] and of test photos [M, F] in the order of their rows.

    groups: [N + M], photos that belong together and are never divided between learning and asking; not given: each
    photo by itself. None where a side has fewer than FEWEST photos; blocks are left out where theirs are fewer.
    """
    if min(len(train), len(test)) < FEWEST:
        return None
    groups = np.arange(len(train) + len(test)) if groups is None else np.unique(groups, return_inverse=True)[1]
    features = _prepared(np.concatenate([train, test]))
    ends = np.linspace(0, len(test), BLOCKS + 1).round().astype(int)
    places = [(0, len(test)), *zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    places = [(first, end) for first, end in places if end - first >= FEWEST]
    shifts = []
    for number, (first, end) in enumerate(places):
        rows = np.concatenate([np.arange(len(train)), len(train) + np.arange(first, end)])
        level = LEVEL / (2 * max(len(places) - 1, 1) if number else 2)  # Bonferroni: half of it for all together
        rng = np.random.default_rng(fold_in(seed, "shift", number))
        shifts.append(_shift(features[rows], len(train), groups[rows], (first, end), level, rng))
    return CovariateShift(shifts[0], tuple(shifts[1:]))


def _prepared(features: np.ndarray) -> np.ndarray:
    """Standardised features with the squares of the first 40, float32, all cut at 4 deviations."""
    white = (features - features.mean(0)) / (features.std(0) + 1e-6)
    white = white.clip(-4, 4)
    squares = np.square(white[:, :40])
    return np.concatenate([white, (squares - squares.mean(0)) / (squares.std(0) + 1e-6)], 1).astype(np.float32)


def _shift(
    features: np.ndarray,
    train: int,
    groups: np.ndarray,
    rows: tuple[int, int],
    level: float,
    rng: np.random.Generator,
) -> PartShift:
    own = np.arange(len(features)) >= train
    labels = np.stack([own, *(_shuffled(own, groups, rng) for _ in range(SHUFFLES))], 1)
    scores = _discriminant(features, labels, groups, rng)
    aucs = np.array([auc(scores[~label, i], scores[label, i]) for i, label in enumerate(labels.T)])
    p = float((aucs >= aucs[0]).mean())
    found = p <= level
    likeness = _probabilities(scores[:, 0], own)
    weights = np.ones(train)
    if found:
        odds = likeness[:train] / (1 - likeness[:train]) * (~own).sum() / own.sum()
        weights = odds.clip(1 / _MOST, _MOST)
        weights /= weights.mean()
    return PartShift(rows, float(aucs[0]), auc_interval(scores[~own, 0], scores[own, 0]), p, found, likeness, weights)


def _shuffled(own: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels dealt out anew, whole groups at a time."""
    order = np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")
    labels = np.zeros(len(own), bool)
    labels[order[: own.sum()]] = True
    return labels


def _discriminant(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores [N, L] of each photo for each column of labels [N, L], by discriminants learned on other groups."""
    part = rng.permutation(groups.max() + 1)[groups] % _FOLDS
    scores = np.zeros(labels.shape)
    for number in range(_FOLDS):
        learn, ask = part != number, part == number
        known = features[learn].astype(np.float64)
        mean = known.mean(0)
        known -= mean
        target = labels[learn] - labels[learn].mean(0)
        inner = known.T @ known
        inner[np.diag_indices_from(inner)] += 0.1 * len(known)
        scores[ask] = (features[ask] - mean) @ np.linalg.solve(inner, known.T @ target) + labels[learn].mean(0)
    return scores


def _probabilities(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    curve = LogisticRegression(C=1e3).fit((scores[:, None] - scores.mean()) / (scores.std() + 1e-9), own)
    return curve.predict_proba((scores[:, None] - scores.mean()) / (scores.std() + 1e-9))[:, 1].clip(1e-6, 1 - 1e-6)


def auc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half."""
    ranks = rankdata(np.concatenate([negative, positive]))
    above = ranks[len(negative) :].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(negative) * len(positive)))


def auc_interval(negative: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """95% interval of the AUC by the variance of each photo's share in it (DeLong et al. 1988)."""
    ranks = rankdata(np.concatenate([negative, positive]))
    beaten = (ranks[len(negative) :] - rankdata(positive)) / len(negative)
    beating = 1 - (ranks[: len(negative)] - rankdata(negative)) / len(positive)
    half = 1.96 * np.sqrt(beaten.var(ddof=1) / len(positive) + beating.var(ddof=1) / len(negative))
    middle = beaten.mean()
    return float(max(0, middle - half)), float(min(1, middle + half))


def summary(shift: CovariateShift | None) -> str:
    """One line: none, or which rows differ by how much."""
    if shift is None:
        return "shift: too few photos to say"

    def told(shift: PartShift) -> str:
        return f"AUC {shift.auc:.3f} [{shift.interval[0]:.3f}, {shift.interval[1]:.3f}], p {shift.p:.3f}"

    if not shift.found:
        return f"shift: none, test photos are not told from training photos ({told(shift.whole)})"
    found = [shift for shift in (shift.whole, *shift.blocks) if shift.found]
    parts = [f"rows {shift.rows[0] + 1} to {shift.rows[1]} ({told(shift)})" for shift in found]
    return f"shift: test photos differ from training photos: {'; '.join(parts)}"


def most_shifted(shift: CovariateShift, training: int, count: int) -> list[tuple[int, float]]:
    """The test rows (from 0) most unlike the training photos, each with its likeness to the shifted part.

    Of the blocks that have shifted, else of the whole. training: the number of training photos.
    """
    shifts = [block for block in shift.blocks if block.found] or [shift.whole]
    rows = [
        (shift.rows[0] + place, float(likeness))
        for shift in shifts
        for place, likeness in enumerate(shift.likeness[training:])
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:count]


def score_alike(likeness: np.ndarray, predicted: np.ndarray, mos: np.ndarray, resamples: int, seed: int) -> dict | None:
    """The quality block of the quarter of the labelled training photos that are most like the test photos.

    likeness, predicted (out of fold), mos (NaN: unknown): [N].
    """
    labelled = np.flatnonzero(~np.isnan(mos) & ~np.isnan(predicted))
    alike = labelled[np.argsort(-likeness[labelled], kind="stable")[: round(_ALIKE * len(labelled))]]
    return mos_block(predicted[alike], mos[alike], resamples, seed)


def shift_report(shift: CovariateShift | None) -> dict:
    """The shift as a JSON-able dict: found, whole and blocks with rows, auc, interval, p, found."""
    if shift is None:
        return {"found": None, "whole": None, "blocks": []}

    def plain(shift: PartShift) -> dict:
        return {name: getattr(shift, name) for name in ("rows", "auc", "interval", "p", "found")}

    return {"found": shift.found, "whole": plain(shift.whole), "blocks": [plain(block) for block in shift.blocks]}

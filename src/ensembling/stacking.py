"""MOS from several members: the handcrafted ones, and a blend of all, each scored out of fold."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from src.metrics.mos_score import mos_score

TEST = -2  # stands where a test photo has its fold number
_FEWEST = 10
_LEAST = 1e-4
"""Of the score, that a member must add."""
Regressor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(features of labelled photos, their mos, features of others) → predictions of the others."""


def out_of_fold(
    regressor: Regressor, features: np.ndarray, mos: np.ndarray, fold: np.ndarray, folds: list[int]
) -> np.ndarray:
    """Predictions of every photo by a regressor on its features: float64 [N].

    features: [N, F]. mos: [N], NaN where unknown.
    fold: [N]; a photo of one of `folds` is predicted by the regressor fitted on the photos outside that fold, and the
    test photos by the mean over folds. Others stay NaN: they were never left out.
    """
    predicted = np.full(len(mos), np.nan)
    tests = []
    for number in folds:
        learn = (fold != number) & (fold != TEST) & ~np.isnan(mos)
        own = fold == number
        found = regressor(features[learn], mos[learn], features[own | (fold == TEST)])
        predicted[own] = found[own[own | (fold == TEST)]]
        tests.append(found[(fold == TEST)[own | (fold == TEST)]])
    predicted[fold == TEST] = np.mean(tests, axis=0)
    return predicted


def blend_weights(members: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Non-negative weights [M] that sum to 1, least squares (Breiman 1996, stacked regressions).

    members: [N, M] out-of-fold predictions. mos: [N] labels. Equal weights where none helps.
    """
    centred = members - members.mean(0)
    weights, _ = nnls(centred, mos - mos.mean())
    total = weights.sum()
    return weights / total if total > 0 else np.full(members.shape[1], 1 / members.shape[1])


def final_weights(members: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The weights [M] that test photos get, fitted on all labelled photos; arguments as for `blend`."""
    usable = _usable(members, mos, fold)
    if usable.sum() < _FEWEST:
        return np.full(members.shape[1], 1 / members.shape[1])
    return blend_weights(members[usable], mos[usable])


def _usable(members: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    return (fold != TEST) & ~np.isnan(mos) & ~np.isnan(members).any(1)


def nnls_blend(members: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The weighted mean of members, see `blend_weights`."""
    return wanted @ blend_weights(members, mos)


def ridge_blend(members: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Ridge regression on the members, whose weights may be negative."""
    return RidgeCV(np.logspace(-2, 4, 13)).fit(members, mos).predict(wanted)


def isotonic_blend(members: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The weighted mean of members, bent by a rising step function to fit the labels (Zadrozny and Elkan 2002).

    It changes PLCC, and SRCC only by ties.
    """
    curve = IsotonicRegression(out_of_bounds="clip").fit(nnls_blend(members, mos, members), mos)
    return curve.predict(nnls_blend(members, mos, wanted))


def boosted_blend(members: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Boosted trees on the members."""
    trees = HistGradientBoostingRegressor(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=4, min_samples_leaf=30, early_stopping=False, random_state=0
    )
    return trees.fit(members, mos).predict(wanted)


BLENDS: dict[str, Regressor] = {
    "nnls": nnls_blend,
    "ridge": ridge_blend,
    "isotonic": isotonic_blend,
    "boosted": boosted_blend,
}


def blend(members: np.ndarray, mos: np.ndarray, fold: np.ndarray, regressor: Regressor = nnls_blend) -> np.ndarray:
    """One MOS for every photo [N] from those of several members, of one run or of many.

    members: [N, M], NaN rows where nothing was predicted. mos: [N], NaN where unknown. fold: [N], TEST for test
    photos. A photo's blend is fitted on the labelled photos of the other folds only, so that its out-of-fold score is
    honest; with one fold alone, that fold is cut in five. With fewer than 10 labelled photos it is the plain mean.
    """
    usable = _usable(members, mos, fold)
    whole = ~np.isnan(members).any(1)
    predicted = np.where(whole, members.mean(1), np.nan)
    if usable.sum() < _FEWEST:
        return predicted
    part = fold.copy()
    if len(np.unique(fold[usable])) < 2:
        for number, (_, held) in enumerate(KFold(5).split(np.flatnonzero(usable))):
            part[np.flatnonzero(usable)[held]] = number
    held = [(part == number) & (fold != TEST) for number in np.unique(part[usable])]
    rest = ~np.any(held, axis=0)  # test photos, and those of which no fold was left out
    for own in [*held, rest]:
        learn, wanted = usable & ~own, own & whole
        if wanted.any():
            predicted[wanted] = regressor(members[learn], mos[learn], members[wanted])
    return predicted


def within(predicted: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Predictions [N] clipped to the range of the labels: for each photo, of those outside its fold.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos.
    """
    clipped = predicted.copy()
    for number in np.unique(fold):
        others = mos[(fold != number) & (fold != TEST) & ~np.isnan(mos)]
        if len(others):
            clipped[fold == number] = predicted[fold == number].clip(others.min(), others.max())
    return clipped


def helpful(members: np.ndarray, mos: np.ndarray) -> list[int]:
    """The columns of members [N, M] that, taken in turn, raise the score of the non-negative blend out of fold.

    mos: [N] labels, all known. The first column is always among them; the photos are cut in five.
    """
    together = np.zeros(len(mos), int)

    def score(columns: list[int]) -> float:
        return mos_score(blend(members[:, columns], mos, together), mos)["score"]

    kept, best = [0], score([0])
    for column in range(1, members.shape[1]):
        if (found := score([*kept, column])) > best + _LEAST:
            kept, best = [*kept, column], found
    return kept


def selective(regressor: Regressor) -> Regressor:
    """The regressor on the members that are `helpful` where it learns."""

    def fit(members: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        kept = helpful(members, mos)
        return regressor(members[:, kept], mos, wanted[:, kept])

    return fit

"""MOS from several members: the hand-made ones, and a blend of all, each scored out of fold."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls
from sklearn.model_selection import KFold

TEST = -2  # stands where a test photo has its fold number
_FEWEST = 10
Regressor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def out_of_fold(
    regressor: Regressor, features: np.ndarray, mos: np.ndarray, fold: np.ndarray, folds: list[int]
) -> np.ndarray:
    """Predictions of every photo by a regressor on its features: float64 [N].

    regressor(features_train, mos_train, features) → predictions. features: [N, F]. mos: [N], NaN where unknown.
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


def blend(members: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The members' weighted mean for every photo [N], and the weights [M] used for the test photos.

    members: [N, M], NaN rows where nothing was predicted. fold: [N], TEST for test photos. A photo's weights come from
    the labelled photos of the other folds only, so that the blend's out-of-fold score is honest; with one fold alone,
    that fold is cut in five. With fewer than 10 labelled photos all weights are equal.
    """
    usable = (fold != TEST) & ~np.isnan(mos) & ~np.isnan(members).any(1)
    if usable.sum() < _FEWEST:
        equal = np.full(members.shape[1], 1 / members.shape[1])
        return members @ equal, equal
    final = blend_weights(members[usable], mos[usable])
    predicted = members @ final
    part = fold.copy()
    if len(np.unique(fold[usable])) < 2:
        for number, (_, held) in enumerate(KFold(5).split(np.flatnonzero(usable))):
            part[np.flatnonzero(usable)[held]] = number
    for number in np.unique(part[usable]):
        own = (part == number) & (fold != TEST)
        predicted[own] = members[own] @ blend_weights(members[usable & ~own], mos[usable & ~own])
    return predicted, final

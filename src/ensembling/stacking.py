"""The blend of several members' MOS: the plain mean of those that help, selected for each photo on the other folds.

Least squares with weights of at least 0 (Breiman 1996, "Stacked regressions"), ridge regression, an isotonic curve and
boosted trees did not do better: weights that fit some folds fit others less well (docs/results.md).
"""

import numpy as np
from sklearn.model_selection import KFold

from src.ensembling.regressors import TEST
from src.metrics.mos_score import mos_score
from src.metrics.significance import paired_mos

FEWEST = 10
"""Labelled photos below which the blend is the mean of all members."""
_RESAMPLES = 200
"""Of the paired bootstrap that says whether a member helps."""


def helpful_members(members: np.ndarray, mos: np.ndarray) -> list[int]:
    """The columns of members [N, M] that belong into the mean: the best one, and those that raise its score.

    Taken in turn, the better ones first; one is kept where a paired bootstrap over the photos tells the gain from
    nothing. All where there are fewer than FEWEST photos. mos: [N] labels, all known.
    """
    if len(mos) < FEWEST:
        return list(range(members.shape[1]))
    alone = [mos_score(column, mos)["score"] for column in members.T]
    best, *others = np.argsort(alone)[::-1].tolist()
    kept = [best]
    for column in others:
        wider, narrower = (members[:, columns].mean(1) for columns in ([*kept, column], kept))
        test = paired_mos(wider, narrower, mos, _RESAMPLES, seed=0)
        if test and test.low > 0:
            kept.append(column)
    return sorted(kept)


def blend(members: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """One MOS for every photo [N] from those of several members, of one run or of many: the mean of those that help.

    members: [N, M], NaN rows where nothing was predicted. mos: [N], NaN where unknown. fold: [N], TEST for test
    photos. Which members help a photo is told by the labelled photos of the other folds only, so that its out-of-fold
    score is honest; with one fold alone, that fold is cut in five.
    """
    complete = ~np.isnan(members).any(1)
    usable = (fold != TEST) & ~np.isnan(mos) & complete
    part = fold.copy()
    if usable.sum() >= FEWEST and len(np.unique(fold[usable])) < 2:
        rows = np.flatnonzero(usable)
        for k, (_, held_out) in enumerate(KFold(5).split(rows)):
            part[rows[held_out]] = k
    held_out_parts = [(part == k) & (fold != TEST) for k in np.unique(part[usable])]
    rest = ~np.any(held_out_parts, axis=0) if held_out_parts else np.full(len(fold), True)
    predicted = np.full(len(members), np.nan)
    for held_out in [*held_out_parts, rest]:  # rest: test photos, and those of which no fold was left out
        fitted, wanted = usable & ~held_out, held_out & complete
        predicted[wanted] = members[wanted][:, helpful_members(members[fitted], mos[fitted])].mean(1)
    return predicted


def clip_to_labels(predicted: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Predictions [N] within the range of the labels: for each photo, of those outside its fold.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos.
    """
    clipped = predicted.copy()
    for k in np.unique(fold):
        others = mos[(fold != k) & (fold != TEST) & ~np.isnan(mos)]
        if len(others):
            clipped[fold == k] = predicted[fold == k].clip(others.min(), others.max())
    return clipped

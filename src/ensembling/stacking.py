"""The non-negative blend of several members' MOS, each photo's fitted on the other folds.

Breiman 1996, "Stacked regressions": least squares with weights of at least 0. Other stackers (ridge regression, an
isotonic curve, boosted trees) did not do better.
"""

import numpy as np
from scipy.optimize import nnls
from sklearn.model_selection import KFold

from src.ensembling.regressors import TEST
from src.metrics.mos_score import mos_score
from src.metrics.significance import paired_mos

FEWEST = 10
"""Labelled photos below which the blend is the plain mean."""
_RESAMPLES = 200
"""Of the paired bootstrap that says whether a member helps."""


def blend_weights(members: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Non-negative weights [M] that sum to 1, by least squares; equal ones where none helps.

    members: [N, M] out-of-fold predictions. mos: [N] labels.
    """
    weights, _ = nnls(members - members.mean(0), mos - mos.mean())
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))


def helpful_members(members: np.ndarray, mos: np.ndarray) -> list[int]:
    """The columns of members [N, M] that belong into the blend: the best one, and those that raise its score.

    Taken in turn, the better ones first; one is kept where a paired bootstrap over the photos, cut in five, tells the
    gain from nothing. mos: [N] labels, all known.
    """
    one_fold = np.zeros(len(mos), int)

    def blended(columns: list[int]) -> np.ndarray:
        return blend(members[:, columns], mos, one_fold, select=False)

    alone = [mos_score(column, mos)["score"] for column in members.T]
    best, *others = np.argsort(alone)[::-1].tolist()
    kept, predicted = [best], blended([best])
    for column in others:
        wider = blended([*kept, column])
        test = paired_mos(wider, predicted, mos, _RESAMPLES, seed=0)
        if test and test.low > 0:
            kept, predicted = [*kept, column], wider
    return sorted(kept)


def blend(members: np.ndarray, mos: np.ndarray, fold: np.ndarray, select: bool) -> np.ndarray:
    """One MOS for every photo [N] from those of several members, of one run or of many.

    members: [N, M], NaN rows where nothing was predicted. mos: [N], NaN where unknown. fold: [N], TEST for test
    photos. select: only the `helpful_members` are blended. A photo's members and weights come from the labelled photos
    of the other folds only, so that its out-of-fold score is honest; with one fold alone, that fold is cut in five.
    With fewer than 10 labelled photos it is the plain mean.
    """
    complete = ~np.isnan(members).any(1)
    usable = (fold != TEST) & ~np.isnan(mos) & complete
    predicted = np.where(complete, members.mean(1), np.nan)
    if usable.sum() < FEWEST:
        return predicted
    part = fold.copy()
    if len(np.unique(fold[usable])) < 2:
        rows = np.flatnonzero(usable)
        for number, (_, held_out) in enumerate(KFold(5).split(rows)):
            part[rows[held_out]] = number
    held_out_parts = [(part == number) & (fold != TEST) for number in np.unique(part[usable])]
    rest = ~np.any(held_out_parts, axis=0)  # test photos, and those of which no fold was left out
    for held_out in [*held_out_parts, rest]:
        fitted, wanted = usable & ~held_out, held_out & complete
        if wanted.any():
            kept = helpful_members(members[fitted], mos[fitted]) if select else list(range(members.shape[1]))
            predicted[wanted] = members[wanted][:, kept] @ blend_weights(members[fitted][:, kept], mos[fitted])
    return predicted


def clip_to_labels(predicted: np.ndarray, mos: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Predictions [N] within the range of the labels: for each photo, of those outside its fold.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos.
    """
    clipped = predicted.copy()
    for number in np.unique(fold):
        others = mos[(fold != number) & (fold != TEST) & ~np.isnan(mos)]
        if len(others):
            clipped[fold == number] = predicted[fold == number].clip(others.min(), others.max())
    return clipped

"""The members of a run's MOS: the network, two regressors on hand-made features, and their blend."""

import numpy as np

from src.blending.stacking import blend, out_of_fold
from src.metrics.floors import boosting, ridge_floor

REGRESSORS = {"ridge": ridge_floor, "boosting": boosting}


def mos_members(
    network: np.ndarray | None, handmade: np.ndarray, mos: np.ndarray, fold: np.ndarray, folds: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions of every member by name [N], clipped to the labels' range, and the blend's weight of each.

    network: [N] out-of-fold and test predictions, None where the task has none. handmade: [N, F]. mos: [N], NaN where
    unknown. fold: [N], TEST for test photos. Without any label there is no member.
    """
    known = ~np.isnan(mos)
    if not known.any():
        return {}, {}
    fewest = min((known & (fold != number)).sum() for number in folds)
    low, high = mos[known].min(), mos[known].max()
    members = {} if network is None else {"network": network}
    if fewest > 1:
        members |= {name: out_of_fold(fit, handmade, mos, fold, folds) for name, fit in REGRESSORS.items()}
    if not members:
        return {}, {}
    members = {name: predicted.clip(low, high) for name, predicted in members.items()}
    blended, weights = blend(np.column_stack(list(members.values())), mos, fold)
    members["blend"] = blended.clip(low, high)
    return members, dict(zip(members, weights.tolist(), strict=False))

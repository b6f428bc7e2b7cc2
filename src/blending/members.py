"""The members of a run's MOS: the network, three regressors on features of the photos, and the blend of all."""

import numpy as np

from src.blending.machines import joined, standardised, support_vectors
from src.blending.stacking import blend, final_weights, out_of_fold
from src.metrics.floors import boosting, ridge_floor


def mos_members(
    network: np.ndarray | None,
    handmade: np.ndarray,
    codes: np.ndarray | None,
    mos: np.ndarray,
    fold: np.ndarray,
    folds: list[int],
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions of every member by name [N], clipped to the labels' range, and the blend's weight of each.

    network: [N] out-of-fold and test predictions, None where the task has none. handmade: [N, F]; codes: [N, C] of the
    codebook, None where they were not computed. mos: [N], NaN where unknown. fold: [N], TEST for test photos. Without
    any label there is no member.
    """
    known = ~np.isnan(mos)
    if not known.any():
        return {}, {}
    fewest = min((known & (fold != number)).sum() for number in folds)
    low, high = mos[known].min(), mos[known].max()
    members = {} if network is None else {"network": network}
    if fewest > 1:
        blocks = [standardised(handmade, known)] + ([] if codes is None else [codes])
        machinery = {"ridge": (ridge_floor, handmade), "boosting": (boosting, handmade)}
        machinery["vectors"] = support_vectors, joined(blocks, known)
        members |= {name: out_of_fold(fit, seen, mos, fold, folds) for name, (fit, seen) in machinery.items()}
    if not members:
        return {}, {}
    members = {name: predicted.clip(low, high) for name, predicted in members.items()}
    stacked = np.column_stack(list(members.values()))
    weights = final_weights(stacked, mos, fold)
    members["blend"] = blend(stacked, mos, fold).clip(low, high)
    return members, dict(zip(members, weights.tolist(), strict=False))

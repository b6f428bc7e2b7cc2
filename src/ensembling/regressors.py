"""The members of a run's MOS: the network, regressors on features of the photos, and the blend of all."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from src.ensembling.stacking import blend, final_weights, out_of_fold, within
from src.ensembling.svr import scaled_blocks, standardised, svr
from src.ensembling.tabular_regressors import boosting, ridge

_COMPONENTS = 256
"""Of a frozen encoder's features: trees on thousands of them would take hours."""


@dataclass(frozen=True)
class PhotoFeatures:
    """What is known of N photos without any label."""

    handcrafted: np.ndarray
    """[N, F]."""
    codes: np.ndarray | None = None
    """[N, C] of the codebook, see data.codes; None where they were not computed."""
    frozen: np.ndarray | None = None
    """[N, D] a frozen encoder's pooled features; None where there is none."""


def mos_members(
    network: np.ndarray | None, described: PhotoFeatures, mos: np.ndarray, fold: np.ndarray, folds: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions of every member by name [N], `within` the labels' range, and the blend's weight of each.

    network: [N] out-of-fold and test predictions, None where the task has none. mos: [N], NaN where unknown. fold: [N],
    TEST for test photos. Without any label there is no member.
    """
    known = ~np.isnan(mos)
    if not known.any():
        return {}, {}
    fewest = min((known & (fold != number)).sum() for number in folds)
    members = {} if network is None else {"network": network}
    if fewest > 1:
        machinery = _machinery(described, known)
        members |= {name: out_of_fold(fit, seen, mos, fold, folds) for name, (fit, seen) in machinery.items()}
    if not members:
        return {}, {}
    members = {name: within(predicted, mos, fold) for name, predicted in members.items()}
    stacked = np.column_stack(list(members.values()))
    weights = final_weights(stacked, mos, fold)
    members["blend"] = within(blend(stacked, mos, fold), mos, fold)
    return members, dict(zip(members, weights.tolist(), strict=False))


def _machinery(described: PhotoFeatures, known: np.ndarray) -> dict[str, tuple]:
    """Each regressor by name, and the features [N, …] it learns from; known: bool [N], photos with a label."""
    handcrafted, codes, frozen = described.handcrafted, described.codes, described.frozen
    blocks = [standardised(handcrafted, known)] + ([] if codes is None else [codes])
    machinery = {"ridge": (ridge, handcrafted), "boosting": (boosting, handcrafted)}
    machinery["svr"] = svr, scaled_blocks(blocks, known)
    if frozen is not None:
        scaled = standardised(frozen.astype(np.float64), known)
        main = PCA(min(_COMPONENTS, known.sum(), scaled.shape[1]), random_state=0).fit(scaled[known]).transform(scaled)
        space = scaled_blocks([main], known)
        machinery |= {
            f"frozen_{name}": (head, space) for name, head in {"ridge": ridge, "boosting": boosting, "svr": svr}.items()
        }
    return machinery

"""Regressors of MOS on features of the photos: ridge, boosted trees, kernel methods; each predicts out of fold."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.stats import norm, rankdata
from tqdm import tqdm

from src.ensembling import kernel_machines
from src.ensembling.kernel_machines import (
    KernelFeatures,
    Table,
    block_kernel,
    kernel_ridge,
    landmark_features,
    landmark_ridge,
    svr,
)
from src.ensembling.tabular_regressors import boosting, ridge

REGRESSORS = ("ridge", "boosting", "svr")
KERNEL_RIDGE = "kernel_ridge"
"""The regressor on a frozen encoder's features."""
TEST = -2
"""Stands where a test photo has its fold."""
_FROZEN_SHARE = 2.0
"""Of a table of a frozen encoder's features in the distances of kernel ridge regression; any other table's is 1."""
Regressor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(rows of labelled photos, their mos, rows of others) → predictions of the others."""


@dataclass(frozen=True)
class PhotoFeatures:
    """What is measured of N photos without any label."""

    handcrafted: np.ndarray
    """[N, F]."""
    codebook: np.ndarray | None = None
    """[N, C] of `data.codebook_features`; None where they were not computed."""
    frozen: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    """Each a `frozen_table`, by the name of the run or of the encoder itself."""


def frozen_table(values: np.ndarray, blocks: Sequence[range] | None = None) -> Table:
    """Cached features of a frozen encoder that MOS is predicted from, [N, V, D] of V views, and those of each block."""
    return Table(values, _FROZEN_SHARE, cut=True, blocks=blocks)


def member_name(member: str, run: str, first: str) -> str:
    """The column of a member of one of several runs: its own name for the run `first`, "MEMBER RUN" for another."""
    return member if run == first else f"{member} {run}"


def regressor_members(
    features: PhotoFeatures,
    mos: np.ndarray,
    fold: np.ndarray,
    folds: list[int],
    first: str,
    seconds: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Out-of-fold and test predictions [N] of each regressor by its column; none where a fold would lack labels.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos. folds: those that are predicted. first: the first run.
    seconds: gets the time that each takes, its features not counted.
    """
    labelled = ~np.isnan(mos) & (fold != TEST)
    if min((labelled & (fold != k)).sum() for k in folds) < 2:
        return {}
    rows = np.flatnonzero(labelled)
    tables = [Table(features.handcrafted)]
    tables += [] if features.codebook is None else [Table(features.codebook, standardise=False)]
    regressors: dict[str, Callable[[], Regressor]] = {
        "ridge": lambda: _on_table(ridge, features.handcrafted),
        "boosting": lambda: _on_table(boosting, features.handcrafted),
        "svr": lambda: partial(svr, KernelFeatures(tables, rows)),
    }
    count = kernel_machines.KERNEL_PHOTOS
    if len(rows) > count:
        parts = min(-(-len(rows) // count), kernel_machines.MACHINES)
        print(
            f"regressors of {len(rows):,} labelled photos: SVR by up to {parts} machines of at most {count:,} photos, "
            f"kernel ridge regression by {count:,} landmarks",
            flush=True,
        )
    for run, frozen in features.frozen.items():
        regressors[member_name(KERNEL_RIDGE, run, first)] = partial(_kernel_ridge, [*frozen, *tables], rows)
    members = {}
    for name, regressor in tqdm(regressors.items(), "regressors of MOS", unit=" regressors", leave=False, disable=None):
        began = time.perf_counter()
        members[name] = out_of_fold(regressor(), mos, fold, folds)
        if seconds is not None:
            seconds[name] = time.perf_counter() - began
    return members


def _on_table(regressor: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], features: np.ndarray) -> Regressor:
    return lambda fitted, mos, wanted: regressor(features[fitted], mos, features[wanted])


def _kernel_ridge(tables: list[Table], labelled: np.ndarray) -> Regressor:
    """Kernel ridge regression of MOS `with_normal_scores`, with landmarks where there are too many labelled photos.

    The kernel is computed once for all folds, whose landmarks are the same; no label has a part in it.
    """
    features, count = KernelFeatures(tables, labelled), kernel_machines.KERNEL_PHOTOS
    photos = np.arange(len(tables[0].values))
    if len(labelled) <= count:
        regressor = partial(kernel_ridge, block_kernel(features, photos, labelled), labelled)
    else:
        landmarks = labelled[np.linspace(0, len(labelled) - 1, count).astype(int)]
        mapped = landmark_features(block_kernel(features, photos, landmarks), landmarks)
        regressor = partial(landmark_ridge, mapped)
    return lambda fitted, mos, wanted: regressor(fitted, with_normal_scores(mos), wanted)


def with_normal_scores(mos: np.ndarray) -> np.ndarray:
    """The mean of each MOS and its normal score on the same scale [N].

    Normal scores: the quantiles of a normal distribution at the labels' ranks (van der Waerden 1952). Where few photos
    are far below all others, squared errors are about these few; half of the competition's score is about all ranks.
    """
    normal = norm.ppf(rankdata(mos) / (len(mos) + 1))
    return (mos + mos.mean() + mos.std() * normal) / 2


def out_of_fold(regressor: Regressor, mos: np.ndarray, fold: np.ndarray, folds: list[int]) -> np.ndarray:
    """Predictions of every photo by a regressor: float64 [N].

    mos: [N], NaN where unknown. fold: [N], TEST for test photos. A photo of one of `folds` is predicted by the
    regressor fitted on the labelled photos outside that fold, a test photo by the one fitted on all. Others stay NaN:
    they were never left out.
    """
    predicted, labelled = np.full(len(mos), np.nan), ~np.isnan(mos) & (fold != TEST)
    for k in [*folds, TEST]:
        wanted = np.flatnonzero(fold == k)
        if len(wanted):
            fitted = np.flatnonzero(labelled & (fold != k))
            predicted[wanted] = regressor(fitted, mos[fitted], wanted)
    return predicted

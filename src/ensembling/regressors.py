"""Regressors of MOS on features of the photos: ridge, boosted trees, kernel methods; each predicts out of fold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR

from src.ensembling.tabular_regressors import boosting, ridge

REGRESSORS = ("ridge", "boosting", "svr")
KERNEL_RIDGE = "kernel_ridge"
"""The regressor on a frozen encoder's features."""
MEMBERS = ("network", *REGRESSORS, KERNEL_RIDGE, "blend")
"""All columns of MOS that a run may have; another run's member is called "MEMBER RUN"."""
TEST = -2
"""Stands where a test photo has its fold."""
KERNEL_PHOTOS = 4000
"""Photos that one kernel machine is fitted on at most: its time grows with their square or cube."""
_GAMMA = 0.3
"""Of the Gaussian kernel, for features whose mean squared distance from the mean photo is 1."""
_SHARES = (1.0, 0.5, 0.5)
"""Of a frozen encoder's, handcrafted and codebook features in the distances of kernel ridge regression."""
_FARTHEST = 8.0
"""Standard deviations from the mean photo at which a feature is cut: of an unseen photo it may be anything."""
Regressor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(features of labelled photos, their mos, features of others) → predictions of the others."""


@dataclass(frozen=True)
class PhotoFeatures:
    """What is measured of N photos without any label."""

    handcrafted: np.ndarray
    """[N, F]."""
    codebook: np.ndarray | None = None
    """[N, C] of `data.codebook_features`; None where they were not computed."""
    frozen: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[N, D] cached features of frozen encoders that MOS is predicted from, by the name of the run."""


def member_name(member: str, run: str, first: str) -> str:
    """The column of a member of one of several runs, of which `first` is the first."""
    return member if run == first else f"{member} {run}"


def regressor_members(
    features: PhotoFeatures, mos: np.ndarray, fold: np.ndarray, folds: list[int], first: str
) -> dict[str, np.ndarray]:
    """Out-of-fold and test predictions [N] of each regressor by its column; none where a fold would lack labels.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos. folds: those that are predicted. first: the first run.
    """
    known = ~np.isnan(mos) & (fold != TEST)
    if min((known & (fold != number)).sum() for number in folds) < 2:
        return {}
    blocks = [standardised(features.handcrafted, known)]
    blocks += [] if features.codebook is None else [features.codebook]
    inputs: dict[str, tuple[Regressor, np.ndarray]] = {
        "ridge": (ridge, features.handcrafted),
        "boosting": (boosting, features.handcrafted),
        "svr": (svr, scaled_blocks(blocks, known)),
    }
    for run, frozen in features.frozen.items():
        scaled = standardised(frozen.astype(np.float64), known).clip(-_FARTHEST, _FARTHEST)
        inputs[member_name(KERNEL_RIDGE, run, first)] = kernel_ridge, scaled_blocks([scaled, *blocks], known, _SHARES)
    return {name: out_of_fold(regressor, table, mos, fold, folds) for name, (regressor, table) in inputs.items()}


def out_of_fold(
    regressor: Regressor, features: np.ndarray, mos: np.ndarray, fold: np.ndarray, folds: list[int]
) -> np.ndarray:
    """Predictions of every photo by a regressor on its features: float64 [N].

    features: [N, F]. mos: [N], NaN where unknown. fold: [N]; a photo of one of `folds` is predicted by the regressor
    fitted on the photos outside that fold, and the test photos by the mean over folds. Others stay NaN: they were never
    left out.
    """
    predicted = np.full(len(mos), np.nan)
    test, of_test = fold == TEST, []
    for number in folds:
        fitted, held_out = (fold != number) & ~test & ~np.isnan(mos), fold == number
        wanted = held_out | test
        answers = regressor(features[fitted], mos[fitted], features[wanted])
        predicted[held_out] = answers[held_out[wanted]]
        of_test.append(answers[test[wanted]])
    predicted[test] = np.mean(of_test, axis=0)
    return predicted


def standardised(features: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Features [N, F] less the mean and over the standard deviation of the photos in `fitted`, bool [N]."""
    return (features - features[fitted].mean(0)) / (features[fitted].std(0) + 1e-6)


def scaled_blocks(
    blocks: list[np.ndarray], fitted: np.ndarray, shares: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Blocks of features [N, F] side by side, whose parts in squared distances are as `shares` whatever their scales.

    fitted: bool [N], the photos whose mean and spread count.
    """
    scaled, total = [], sum(shares[: len(blocks)])
    for block, share in zip(blocks, shares, strict=False):
        centred = block - block[fitted].mean(0, dtype=np.float64)
        size = np.sqrt(np.square(centred[fitted]).sum(1).mean() * total / share)
        scaled.append(centred / max(size, 1e-6))
    return np.concatenate(scaled, axis=1)


def svr(features: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """MOS [wanted photos] by support vector regression with a Gaussian kernel on features of `scaled_blocks`.

    Above KERNEL_PHOTOS photos it is the mean of several machines, each fitted on a part of them.
    """
    return _mean_of_parts(lambda: SVR(C=3.0, gamma=_GAMMA, epsilon=0.2), features, mos, wanted)


def kernel_ridge(features: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """MOS [wanted photos] by kernel ridge regression, the mean of a Gaussian process; otherwise as `svr`."""
    return _mean_of_parts(lambda: KernelRidge(alpha=0.1, kernel="rbf", gamma=_GAMMA), features, mos, wanted)


def _mean_of_parts(
    machine: Callable[[], SVR | KernelRidge], features: np.ndarray, mos: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    mean, deviation = mos.mean(), mos.std() or 1.0
    parts = -(-len(mos) // KERNEL_PHOTOS)
    answers = [
        machine().fit(features[part::parts], (mos[part::parts] - mean) / deviation).predict(wanted)
        for part in range(parts)
    ]
    return np.mean(answers, axis=0) * deviation + mean

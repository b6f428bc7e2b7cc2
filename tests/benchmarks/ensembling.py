"""Kernel machines as the ensemble fits them, against libsvm's own prediction and the exact kernel; neighbours."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVR

from src.ensembling.caption_space import CaptionSpace
from src.ensembling.kernel_machines import (
    KernelFeatures,
    Table,
    block_kernel,
    kernel_ridge,
    landmark_features,
    landmark_ridge,
    predict_svr,
)
from src.ensembling.retrieval import NeighbourSearch
from src.metrics.mos_score import mos_score

FITTED, WANTED, FEATURES = 8000, 4000, 296
LANDMARKS = 2000
SUPPORT = 3000


def _photos(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of few hidden causes, and a MOS that depends on them and on what no feature shows."""
    hidden = rng.normal(size=(FITTED + WANTED, 12))
    features = np.tanh(hidden @ rng.normal(size=(12, FEATURES))) + 0.5 * rng.normal(size=(len(hidden), FEATURES))
    return features, 5 + hidden[:, 0] + np.sin(2 * hidden[:, 1:6]).sum(1) / 2 + 0.5 * rng.normal(size=len(hidden))


def _timed(function: Callable[..., np.ndarray], *arguments: object) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of both, and how far they agree."""
    rng = np.random.default_rng(0)
    values, mos = _photos(rng)
    fitted, wanted = np.arange(FITTED), np.arange(FITTED, FITTED + WANTED)
    features = KernelFeatures([Table(values)], fitted)
    labels = (mos[fitted] - mos[fitted].mean()) / mos[fitted].std()

    machine = SVR(C=3.0, gamma=0.3, epsilon=0.2).fit(features.rows(fitted[:SUPPORT]), labels[:SUPPORT])
    inputs = features.rows(wanted)
    theirs, expected = _timed(machine.predict, inputs)
    ours, found = _timed(predict_svr, machine, inputs)
    agree = f"libsvm; differs by {np.abs(found - expected).max():.0e}"
    yield f"SVR of {SUPPORT:,} photos x {FEATURES}, {WANTED:,} predicted", ours, theirs, agree

    photos, landmarks = np.arange(len(values)), fitted[:: FITTED // LANDMARKS]

    def exactly() -> np.ndarray:
        return kernel_ridge(block_kernel(features, photos, fitted), fitted, fitted, mos[fitted], wanted)

    def by_landmarks() -> np.ndarray:
        mapped = landmark_features(block_kernel(features, photos, landmarks), landmarks)
        return landmark_ridge(mapped, fitted, mos[fitted], wanted)

    theirs, expected = _timed(exactly)
    ours, found = _timed(by_landmarks)
    scores = [mos_score(answers, mos[wanted])["score"] for answers in (found, expected)]
    agree = f"the exact kernel; MOS score {scores[0]:.3f}, exact {scores[1]:.3f}"
    yield f"kernel ridge of {FITTED:,} photos, {LANDMARKS:,} landmarks", ours, theirs, agree

    words = np.array([f"word{i}" for i in range(2000)])
    said = [[" ".join(words[rng.zipf(1.5, 10) % 2000])] for _ in range(FITTED)]
    tables = [values.astype(np.float32)]
    search, space = NeighbourSearch(tables, fitted, said), CaptionSpace(tables, fitted, said)
    ours, _ = _timed(lambda: search.of_rows(wanted, 40).rows)
    brute = NearestNeighbors(n_neighbors=40, algorithm="brute", metric="cosine").fit(space.vectors)
    theirs, _ = _timed(lambda: brute.kneighbors(space.of_rows(wanted))[1])
    yield f"40 neighbours of {WANTED:,} photos among {FITTED:,}", ours, theirs, "scikit-learn's brute force"

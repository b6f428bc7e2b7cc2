"""Regressors on made-up features."""

import numpy as np
import pytest

from src.base.errors import InputError
from src.ensembling.tabular_regressors import boosting, ridge
from src.metrics.mos_score import mos_score


def features(photos: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(photos, 6)) * [1, 10, 0.1, 1, 1, 1]
    mos = 5 + made[:, 0] - 0.1 * made[:, 1] + 3 * made[:, 2] + 0.3 * rng.normal(size=photos)
    return made, mos


def test_ridge_finds_a_linear_rule_whatever_the_scales_and_gaps():
    train, mos = features(300, 0)
    test, truth = features(200, 1)
    assert mos_score(ridge(train, mos, test), truth)["score"] > 0.95
    mos[:20], train[30:60, 4], train[60, 5] = np.nan, np.nan, np.inf
    test[3, 4] = np.nan
    gapped = ridge(train, mos, np.column_stack([test[:, :5], np.full(200, np.nan)]))
    assert np.isfinite(gapped).all() and mos_score(gapped, truth)["score"] > 0.95


def test_ridge_solves_the_penalised_normal_equations():
    train, mos = features(80, 2)
    test, _ = features(10, 3)
    z, z_test = ((values - train.mean(axis=0)) / train.std(axis=0) for values in (train, test))
    solutions = [
        mos.mean() + z_test @ np.linalg.solve(z.T @ z + strength * np.eye(6), z.T @ (mos - mos.mean()))
        for strength in np.logspace(-2, 4, 25)
    ]
    got = ridge(train, mos, test)
    assert min(np.abs(got - solution).max() for solution in solutions) < 1e-8


def test_boosting_finds_what_ridge_cannot_and_repeats_itself():
    rng = np.random.default_rng(5)
    train, test = rng.normal(size=(800, 5)), rng.normal(size=(300, 5))
    truth = test[:, 0] ** 2 - np.abs(test[:, 1])
    mos = train[:, 0] ** 2 - np.abs(train[:, 1])
    train[::7, 3] = np.nan
    first = boosting(train, mos, test, seed=1)
    assert mos_score(first, truth)["score"] > 0.85 > mos_score(ridge(train, mos, test), truth)["score"]
    assert np.array_equal(first, boosting(train, mos, test, seed=1))


@pytest.mark.parametrize("fit", [ridge, boosting])
def test_too_few_labels_are_one_clear_line(fit):
    with pytest.raises(InputError, match="1 training photos with a MOS are too few"):
        fit(np.zeros((3, 2)), [1.0, np.nan, np.nan], np.zeros((1, 2)))

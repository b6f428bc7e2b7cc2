"""The MOS score against scipy, with its bootstrap interval."""

import math

import numpy as np
import pytest
from scipy import stats

from src.metrics import bootstrap
from src.metrics.bootstrap import resample_counts
from src.metrics.mos_score import mos_score, plcc, resampled_mos_scores, srcc


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_correlations_equal_scipy_with_ties(digits):
    rng = np.random.default_rng(digits)
    x = np.round(rng.normal(5, 2, 200), digits)
    y = np.round(x + rng.normal(size=200), digits)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_correlation_is_undefined_for_a_constant_or_too_few_photos_and_scores_zero():
    assert math.isnan(plcc([1, 2, 3], [4, 4, 4])) and math.isnan(srcc([4, 4, 4], [1, 2, 3]))
    assert math.isnan(plcc([1, 2], [1, 2]))
    assert mos_score([5, 5, 5, 5], [1, 2, 3, 4])["score"] == 0
    assert mos_score([4, 3, 2, 1], [1, 2, 3, 4]) == {"plcc": -1, "srcc": -1, "score": 0}
    assert plcc(np.array([1, 2, 3]) * 1e-200, [1, 2, 3]) == pytest.approx(1)


def test_each_term_is_clipped_on_its_own():
    truth, pred = [1, 2, 3, 4, 100], [5, 4, 3, 2, 6]  # ranks 1 2 3 4 5 and 4 3 2 1 5
    parts = mos_score(pred, truth)
    assert parts["plcc"] > 0.5 and parts["srcc"] == pytest.approx(0, abs=1e-12)
    assert parts["score"] == pytest.approx(parts["plcc"] / 2)


def test_bootstrap_of_the_mos_equals_scoring_each_resample_by_scipy():
    rng = np.random.default_rng(3)
    truth = np.round(rng.normal(5, 1, 40), 1)
    pred = np.round(truth + rng.normal(size=40), 1)
    values = []
    for counts in np.concatenate(list(resample_counts(40, 60, seed=7))).astype(int):
        x, y = np.repeat(pred, counts), np.repeat(truth, counts)
        values.append((max(stats.pearsonr(x, y)[0], 0) + max(stats.spearmanr(x, y)[0], 0)) / 2)
    assert resampled_mos_scores(pred, truth, 60, seed=7) == pytest.approx(np.array(values), abs=1e-12)


def test_resamples_do_not_depend_on_the_blocks_they_come_in(monkeypatch):
    whole = np.concatenate(list(resample_counts(30, 11, seed=1)))
    monkeypatch.setattr(bootstrap, "_CELLS", 70)
    blocks = list(resample_counts(30, 11, seed=1))
    assert len(blocks) == 6 and np.array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 30).all() and not np.array_equal(whole[0], whole[1])

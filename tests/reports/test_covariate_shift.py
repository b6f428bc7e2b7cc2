"""Covariate shift, on photos and Gaussians with a known answer."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.reports.covariate_shift import (
    auc_interval,
    detect_covariate_shift,
    most_shifted_rows,
    score_test_like,
    summary,
)
from tests.data.test_codebook import textured


def features_of(kind, count: int, seed: int) -> np.ndarray:
    from src.data.handcrafted import handcrafted_features

    return np.stack([handcrafted_features(kind(textured(1000 * seed + i))) for i in range(count)])


def test_a_shift_is_found_where_it_is_and_only_there():
    """The last fifth of the test photos is blurred."""
    blurred = lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 1.2)  # noqa: E731
    train, test = features_of(np.asarray, 200, 1), features_of(np.asarray, 160, 2)
    none = detect_covariate_shift(train, np.concatenate([test, features_of(np.asarray, 40, 3)]))
    assert not none.shifted and "none" in summary(none) and (none.overall.weights == 1).all()
    shift = detect_covariate_shift(train, np.concatenate([test, features_of(blurred, 40, 3)]))
    assert [block.shifted for block in shift.blocks] == [False] * 4 + [True]
    last = shift.blocks[4]
    assert last.rows == (160, 200) and last.auc >= 0.9 and last.auc_interval[0] > 0.8
    assert {row for row, _ in most_shifted_rows(shift, 12)} <= set(range(160, 200))
    assert "rows 161 to 200" in summary(shift)


def test_weights_are_the_ratio_of_densities():
    """Of two Gaussians a unit apart the logarithm of the ratio rises by one per unit."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(0, 1, (2000, 1)), rng.normal(1, 1, (1000, 1))
    shift = detect_covariate_shift(train, test).overall
    assert shift.shifted and shift.weights.mean() == pytest.approx(1)
    middle = np.abs(train[:, 0]) < 1.5
    slope, _ = np.polyfit(train[middle, 0], np.log(shift.weights[middle]), 1)
    assert slope == pytest.approx(1, abs=0.25)
    assert np.average(train[:, 0], weights=shift.weights) == pytest.approx(1, abs=0.2)


def test_groups_are_not_divided_between_fitting_and_predicting():
    """Photos of a group look alike: divided, they would be recognised rather than classified."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(4):
        group = np.repeat(np.arange(40), 10)
        handcrafted_features = rng.normal(0, 1, (40, 12))[group] + rng.normal(0, 0.1, (400, 12))
        order = np.argsort(group >= 20, kind="stable")
        handcrafted_features, group = handcrafted_features[order], group[order]
        found.append(
            detect_covariate_shift(handcrafted_features[:200], handcrafted_features[200:], group, seed).overall.shifted
        )
    assert sum(found) <= 1


def test_auc_is_that_of_scikit_learn_and_its_interval_that_of_a_bootstrap():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(0, 1, 80).round(1), rng.normal(1, 1, 50).round(1)
    truth = np.r_[np.zeros(80), np.ones(50)]
    draws = [np.r_[rng.choice(negative, 80), rng.choice(positive, 50)] for _ in range(1000)]
    resampled = [roc_auc_score(truth, draw) for draw in draws]
    np.testing.assert_allclose(auc_interval(negative, positive), np.percentile(resampled, [2.5, 97.5]), atol=0.015)


def test_the_p_value_is_the_share_of_shuffles_that_reach_the_auc():
    """Without a shift p-values are uniform: seldom below 0.1, and 0.5 in the mean."""
    rng = np.random.default_rng(0)
    p_values = [detect_covariate_shift(*rng.normal(0, 1, (2, 40, 3)), seed=seed).overall.p_value for seed in range(40)]
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)
    assert np.mean(np.array(p_values) < 0.1) < 0.25
    assert min(p_values) >= 1 / 200


def test_the_score_of_test_like_photos_is_that_of_the_quarter_most_like_them():
    rng = np.random.default_rng(0)
    probability, mos = rng.random(80), rng.normal(5, 1, 80)
    predicted = np.where(probability > np.median(probability), mos, -mos)
    block = score_test_like(probability, predicted, mos, 10, 0)
    assert block["photos"] == 20 and block["plcc"] == pytest.approx(1)
    mos[probability > np.median(probability)] = np.nan
    assert score_test_like(probability, predicted, mos, 10, 0)["photos"] == 10
    assert score_test_like(probability, predicted, mos, 10, 0)["plcc"] == pytest.approx(-1)


def test_too_few_photos_are_said_to_be_too_few():
    assert detect_covariate_shift(np.zeros((100, 2)), np.zeros((19, 2))) is None
    assert "too few photos" in summary(None)


def test_few_groups_are_tested_as_far_as_they_go():
    """Photos of a few sites: a fold holds whole sites, and a block of the test rows may hold one site alone."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(0, 1, (60, 5)), rng.normal(0, 1, (200, 5))
    in_file_order = np.r_[np.arange(60) % 4, 4 + np.arange(200) // 20]
    assert len(detect_covariate_shift(train, test, in_file_order).blocks) == 5
    one_site = np.r_[np.zeros(100), np.repeat(np.arange(1, 5), 40)]
    assert [block.rows for block in detect_covariate_shift(train, test, one_site).blocks][0] == (40, 80)
    assert detect_covariate_shift(train, test, np.zeros(260)) is None


def test_groups_on_both_sides_raise_no_false_alarm():
    """Photos of four sites, of which both parts have some: without a shift the p-value is anything."""
    rng, sites = np.random.default_rng(0), np.arange(260) % 4
    tests = [detect_covariate_shift(*np.split(rng.normal(0, 1, (260, 5)), [60]), sites, seed) for seed in range(12)]
    assert sum(test.overall.p_value < 0.2 for test in tests) < 7 and sum(test.overall.shifted for test in tests) < 3
    moved = rng.normal(0, 1, (260, 5)) + 2 * (np.arange(260) >= 60)[:, None]
    assert detect_covariate_shift(moved[:60], moved[60:], sites).overall.shifted

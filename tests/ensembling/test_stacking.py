"""Members and blends, on features and labels made up to have a known answer."""

import cv2
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from src.ensembling import svr
from src.ensembling.regressors import PhotoFeatures, mos_members
from src.ensembling.stacking import BLENDS, TEST, blend, within


@pytest.fixture(scope="module")
def made_up():
    """Three members of 300 labelled photos in three folds, 20 without a label and 40 test photos."""
    rng = np.random.default_rng(0)
    mos = rng.normal(5, 1, 360)
    members = np.column_stack([mos + rng.normal(0, noise, 360) for noise in (0.7, 0.9, 3)])
    fold = np.r_[np.arange(320) % 3, np.full(40, TEST)]
    mos[300:] = np.nan
    return members, mos, fold


@pytest.mark.parametrize("name", BLENDS)
def test_a_photo_s_own_fold_has_no_part_in_its_blend(made_up, name):
    members, mos, fold = made_up
    other = np.where(fold == 0, np.random.default_rng(1).permutation(mos), mos)
    one, two = blend(members, mos, fold, BLENDS[name]), blend(members, other, fold, BLENDS[name])
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one[fold == 0], two[fold == 0])
    assert (one[fold == 1] != two[fold == 1]).any() and (one[fold == TEST] != two[fold == TEST]).any()
    error = np.abs(one - mos)[:300].mean()
    assert error < min(np.abs(members[:300, i] - mos[:300]).mean() for i in range(3))


def test_not_even_the_range_of_a_fold_s_own_labels_is_known():
    mos, fold = np.array([1.0, 9, 3, 5, np.nan, 99]), np.array([0, 0, 1, 1, TEST, TEST])
    assert within(np.array([0.0, 10, 0, 10, 0, 10]), mos, fold).tolist() == [3, 5, 1, 9, 1, 9]
    assert within(np.array([7.0, np.nan]), np.array([1.0, 2]), np.zeros(2)).tolist()[0] == 7, "nothing else is known"


def test_memorising_is_not_rewarded(made_up):
    """A blend that knows its own photos by heart scores like chance on noise."""
    _, mos, fold = made_up
    noise = np.random.default_rng(2).normal(5, 1, (len(mos), 2))
    by_heart = lambda a, y, b: y[np.argmin(np.square(b[:, None] - a).sum(2), 1)]  # noqa: E731
    assert abs(np.corrcoef(blend(noise, mos, fold, by_heart)[:300], mos[:300])[0, 1]) < 0.2


def test_support_vectors_see_what_codes_show(monkeypatch):
    rng = np.random.default_rng(0)
    handcrafted, patterns = rng.normal(0, 1, (400, 10)) * 100, rng.normal(0, 1, (400, 10))
    mos = handcrafted[:, 0] / 100 + 1.5 * patterns[:, 0] + 5
    fold = np.r_[np.arange(360) % 3, np.full(40, TEST)]
    labels = np.where(fold == TEST, np.nan, mos)

    def score(codebook_features):
        members, weights = mos_members(None, PhotoFeatures(handcrafted, codebook_features), labels, fold, [0, 1, 2])
        assert list(members) == ["ridge", "boosting", "svr", "blend"] and sum(weights.values()) == pytest.approx(1)
        return [np.corrcoef(members["svr"][part], mos[part])[0, 1] for part in (fold != TEST, fold == TEST)]

    seen, blind = score(patterns), score(None)
    assert min(seen) > 0.85 and max(blind) < 0.7
    monkeypatch.setattr(svr, "COMMITTEE", 130)
    assert min(score(patterns)) > 0.8


def test_each_head_on_frozen_features_is_a_member():
    rng = np.random.default_rng(0)
    handcrafted, frozen = rng.normal(0, 1, (400, 10)), rng.normal(0, 1, (400, 12)).astype(np.float16)
    mos = frozen[:, :2].sum(1) + 5.0
    fold = np.r_[np.arange(360) % 3, np.full(40, TEST)]
    labels = np.where(fold == TEST, np.nan, mos)
    members, _ = mos_members(None, PhotoFeatures(handcrafted, frozen=frozen), labels, fold, [0, 1, 2])
    score = {name: np.corrcoef(found[fold == TEST], mos[fold == TEST])[0, 1] for name, found in members.items()}
    assert all((score[name] > 0.8) == (name.startswith("frozen") or name == "blend") for name in members)
    learn = (fold == 1) | (fold == 2)
    by_hand = Ridge(1e-3).fit(frozen[learn].astype(float), mos[learn]).predict(frozen[fold == 0].astype(float))
    assert np.abs(by_hand - members["frozen_ridge"][fold == 0]).max() < 0.02


def textured(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return (cv2.resize(coarse, (96, 64)) * 0.8 + rng.normal(20, 6, (64, 96, 3))).clip(0, 255).astype(np.uint8)

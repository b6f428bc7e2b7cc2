"""Members and blends of MOS, on features and labels made up to have a known answer."""

from functools import partial
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from src.ensembling import kernel_machines
from src.ensembling.kernel_machines import KernelFeatures, Table, block_kernel, kernel_ridge
from src.ensembling.mos_blend import blend_mos, member_used, mos_members, used_mos
from src.ensembling.regressors import TEST, PhotoFeatures, frozen_table, out_of_fold, regressor_members
from src.ensembling.stacking import blend, clip_to_labels, helpful_members
from src.metrics.mos_score import srcc
from src.settings.load import load


@pytest.fixture(scope="module")
def made_up():
    """Three members of 300 labelled photos in three folds, 20 without a label and 40 test photos."""
    rng = np.random.default_rng(0)
    mos = rng.normal(5, 1, 360)
    members = np.column_stack([mos + rng.normal(0, noise, 360) for noise in (0.7, 0.9, 3)])
    fold = np.r_[np.arange(320) % 3, np.full(40, TEST)]
    mos[300:] = np.nan
    return members, mos, fold


@pytest.fixture(scope="module")
def settings():
    return load(["run.name=one", "metric.bootstrap=100"], "ensemble")[0]


def test_a_photo_s_own_fold_has_no_part_in_its_blend(made_up):
    members, mos, fold = made_up
    other = np.where(fold == 0, members[:, 2], mos)  # as if the noisiest member was right
    one, two = blend(members, mos, fold), blend(members, other, fold)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one[fold == 0], two[fold == 0])
    assert (one[fold == 1] != two[fold == 1]).any() and (one[fold == TEST] != two[fold == TEST]).any()
    error = np.abs(one - np.where(np.isnan(mos), one, mos))[:300].mean()
    assert error < min(np.abs(members[:300, i] - mos[:300]).mean() for i in range(3))


def test_a_fold_that_is_alone_is_cut_in_five(made_up):
    members, mos, fold = made_up
    alone = np.where(fold == TEST, TEST, 0)
    first_fifth = np.where(np.arange(360) < 60, members[:, 2], mos)  # where the noisiest member would be the best
    found = blend(members, first_fifth, alone)
    np.testing.assert_allclose(found[:60], members[:60, :2].mean(1))
    assert (found[60:300] != members[60:300, :2].mean(1)).all()


def test_members_without_labels_enough_are_averaged(made_up):
    members, mos, fold = made_up
    few = np.where(np.arange(360) < 9, mos, np.nan)
    np.testing.assert_allclose(blend(members, few, fold), members.mean(1))


def test_not_even_the_range_of_a_fold_s_own_labels_is_known():
    mos, fold = np.array([1.0, 9, 3, 5, np.nan, 99]), np.array([0, 0, 1, 1, TEST, TEST])
    assert clip_to_labels(np.array([0.0, 10, 0, 10, 0, 10]), mos, fold).tolist() == [3, 5, 1, 9, 1, 9]
    alone = clip_to_labels(np.array([7.0, np.nan]), np.array([1.0, 2]), np.zeros(2))
    assert alone.tolist()[0] == 7, "nothing else is known"


def test_support_vectors_see_what_the_codebook_shows(monkeypatch):
    rng = np.random.default_rng(0)
    handcrafted, patterns = rng.normal(0, 1, (400, 10)) * 100, rng.normal(0, 1, (400, 10))
    mos = handcrafted[:, 0] / 100 + 1.5 * patterns[:, 0] + 5
    fold = np.r_[np.arange(360) % 3, np.full(40, TEST)]
    labels, networks = np.where(fold == TEST, np.nan, mos), {"one": np.full(400, np.nan)}

    def score(codebook_features):
        members = mos_members(networks, PhotoFeatures(handcrafted, codebook_features), labels, fold, [0, 1, 2])
        assert list(members) == ["ridge", "boosting", "svr"]
        return [np.corrcoef(members["svr"][part], mos[part])[0, 1] for part in (fold != TEST, fold == TEST)]

    seen, blind = score(patterns), score(None)
    assert min(seen) > 0.85 and max(blind) < 0.7
    monkeypatch.setattr(kernel_machines, "KERNEL_PHOTOS", 130)
    assert min(score(patterns)) > 0.8


def test_kernel_ridge_regression_on_each_run_s_frozen_features_is_a_member():
    rng = np.random.default_rng(0)
    handcrafted, frozen = rng.normal(0, 1, (400, 10)), rng.normal(0, 1, (400, 12)).astype(np.float16)
    mos = frozen[:, :2].sum(1) + 5.0
    fold = np.r_[np.arange(360) % 3, np.full(40, TEST)]
    labels, networks = np.where(fold == TEST, np.nan, mos), {name: np.full(400, np.nan) for name in ("one", "two")}
    first = frozen_table(frozen[:, None, :8], [range(0, 2), range(3, 8)])  # a block of two columns, another of five
    tables = {"one": [first, frozen_table(frozen[:, None, 8:])], "two": [frozen_table(frozen[:, None, ::-1])]}
    features = PhotoFeatures(handcrafted, frozen=tables)
    members = mos_members(networks, features, labels, fold, [0, 1, 2])
    score = {name: np.corrcoef(found[fold == TEST], mos[fold == TEST])[0, 1] for name, found in members.items()}
    assert list(members) == ["ridge", "boosting", "svr", "kernel_ridge", "kernel_ridge two"]
    assert all((score[name] > 0.8) == name.startswith("kernel_ridge") for name in members)
    # the mean of a Gaussian process, by hand
    known, distances = fold != TEST, []
    for table, share in ((frozen[:, :2], 1), (frozen[:, 3:8], 1), (frozen[:, 8:], 2), (handcrafted, 1)):
        standardised = (table - table[known].mean(0, dtype=float)) / (table[known].std(0, dtype=float) + 1e-6)
        scaled = standardised / np.sqrt(np.square(standardised[known]).sum(1).mean())
        distances.append(share / 5 * np.square(scaled[:, None] - scaled[None]).sum(2))
    by_block = [part * np.exp(-0.5 * d / part) for part, d in zip((0.2, 0.2, 0.4, 0.2), distances, strict=True)]
    kernel = (np.exp(-0.3 * sum(distances)) + sum(by_block)) / 2
    for learn, wanted in (((fold == 1) | (fold == 2), fold == 0), (known, fold == TEST)):  # all teach the test photos
        target = pd.Series(mos[learn].astype(float))
        centred, deviation = target - target.mean(), target.std(ddof=0)
        quantiles = (target.rank() / (len(target) + 1)).map(NormalDist().inv_cdf)
        centred = (centred + deviation * quantiles).to_numpy() / 2
        weights = np.linalg.solve(kernel[np.ix_(learn, learn)] + 0.05 * np.eye(learn.sum()), centred)
        by_hand = kernel[np.ix_(wanted, learn)] @ weights + target.mean()
        assert np.abs(by_hand - members["kernel_ridge"][wanted]).max() < 0.01


def test_few_far_labels_do_not_take_over_kernel_ridge_regression():
    """Most photos differ little in MOS and a few are far worse: their order by the regressor is closer to the truth."""
    rng = np.random.default_rng(0)
    frozen, fold = rng.normal(0, 1, (600, 1, 6)), np.arange(600) % 3
    quality = frozen[:, 0, :3].sum(1)
    mos = 8 - np.exp(1.2 * quality) / 8
    features = PhotoFeatures(rng.normal(0, 1, (600, 4)), frozen={"one": [frozen_table(frozen)]})
    ours = regressor_members(features, mos, fold, [0, 1, 2], "one")["kernel_ridge"]
    kernel = KernelFeatures([Table(frozen, 2, cut=True), Table(features.handcrafted)], np.arange(600))
    plain = partial(kernel_ridge, block_kernel(kernel, np.arange(600), np.arange(600)), np.arange(600))
    assert srcc(ours, mos) > srcc(out_of_fold(plain, mos, fold, [0, 1, 2]), mos) + 0.01


def test_a_fold_s_blend_does_not_know_its_labels_and_useless_members_are_left_out(settings):
    rng = np.random.default_rng(0)
    truth, fold = rng.normal(5, 1, 120), np.arange(120) % 3
    members = {"ridge": truth + rng.normal(0, 1, 120), "boosting": rng.normal(5, 1, 120),
               "network": truth + rng.normal(0, 1, 120)}  # fmt: skip
    found = blend_mos(members, truth, fold, "one", "blend", settings)
    helpful = helpful_members(np.column_stack(list(members.values())), truth)
    assert found.weights.keys() == {"ridge", "network"} == {list(members)[column] for column in helpful}
    assert sum(found.weights.values()) == pytest.approx(1)
    other = np.where(fold == 1, members["boosting"], truth)
    again = blend_mos(members, other, fold, "one", "blend", settings)
    np.testing.assert_array_equal(found.mos[fold == 1], again.mos[fold == 1])
    assert not np.allclose(found.mos[fold != 1], again.mos[fold != 1])


def test_the_member_asked_for_is_that_of_the_first_run_that_has_one():
    names = ["ridge", "svr", "network two", "network three"]
    assert [member_used(names, wanted) for wanted in ("svr", "network", "boosting", "blend")] == [
        "svr", "network two", "blend", "blend"
    ]  # fmt: skip
    assert member_used([*names, "network"], "network") == "network"


def test_an_unreadable_photo_gets_the_mean_of_every_member(settings):
    rng = np.random.default_rng(0)
    truth, fold = np.r_[rng.normal(5, 1, 60), np.nan, np.nan], np.r_[np.arange(60) % 3, TEST, TEST]
    members = {name: np.r_[truth[:60] + rng.normal(0, 1, 60), 4.0, np.nan] for name in ("ridge", "network")}
    blended = blend_mos(members, truth, fold, "one", "blend", settings)
    unreadable = np.arange(62) == 61
    table = used_mos(members, blended, "network", 5.5, unreadable)
    assert list(table) == ["mos", "ridge", "network", "blend"] and (table.iloc[61] == 5.5).all()
    np.testing.assert_array_equal(table["mos"][:61], members["network"][:61])
    np.testing.assert_array_equal(used_mos(members, blended, "blend", 5.5, unreadable)["mos"], table["blend"])
    assert used_mos({}, None, "blend", np.nan, unreadable)["mos"].tolist() == [0.0] * 62

"""Near-duplicates against brute force; folds that are even, together and repeatable."""

import numpy as np
import pandas as pd
import pytest

from src.base.errors import InputError
from src.data import folds as folds_module
from src.data.folds import (
    Leak,
    assign_folds,
    check_folds,
    fold_summary,
    load_folds,
    merge_groups,
    near_duplicates,
    save_folds,
)
from src.data.image import perceptual_hash

matches = folds_module._matches


def by_brute_force(phash, distance):
    """Breadth-first search over all pairs."""
    near = np.bitwise_count(phash[:, None] ^ phash[None, :]) <= distance
    labels = np.full(len(phash), -1)
    for start in range(len(phash)):
        if labels[start] < 0:
            stack = [start]
            while stack:
                at = stack.pop()
                if labels[at] < 0:
                    labels[at] = start
                    stack += np.flatnonzero(near[at] & (labels < 0)).tolist()
    return labels


def hashes(seed, families=60, members=8, flips=9):
    """Families of hashes a few bits apart, some equal, and strangers."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 1 << 63, families, dtype=np.uint64) * np.uint64(2)
    phash = []
    for centre in centres:
        for _ in range(members):
            bits = rng.choice(64, rng.integers(0, flips), replace=False)
            phash.append(centre ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0)))
    return rng.permutation(np.array(phash, np.uint64))


@pytest.mark.parametrize("distance", range(8))
def test_near_duplicates_equal_brute_force(distance):
    for seed in range(3):
        phash = hashes(seed)
        labels = near_duplicates(phash, distance)
        np.testing.assert_array_equal(labels, by_brute_force(phash, distance))
        assert 1 < len(np.unique(labels)) < len(phash)


def test_near_duplicates_of_equal_hashes_of_no_hash_and_of_distances_out_of_range():
    assert near_duplicates(np.zeros(5000, np.uint64), 7).tolist() == [0] * 5000
    assert near_duplicates(np.zeros(0, np.uint64), 4).tolist() == []
    assert near_duplicates(np.zeros(3, np.uint64), -1).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="between -1 and 7"):
        near_duplicates(np.zeros(3, np.uint64), 8)


def test_near_duplicates_compare_few_pairs(monkeypatch):
    """All pairs of 60,000 hashes are 1.8 billion."""
    compared = []
    monkeypatch.setattr(folds_module, "_matches", lambda *a: (compared.append(len(p[0])) or p for p in matches(*a)))
    near_duplicates(np.random.default_rng(0).integers(0, 1 << 63, 60_000, dtype=np.uint64), 7)
    assert 0 < sum(compared) < 10_000_000


def test_one_crowded_band_gives_the_right_groups():
    rng = np.random.default_rng(1)
    phash = rng.integers(0, 1 << 16, 3000, dtype=np.uint64)  # three of four bands are equal
    np.testing.assert_array_equal(near_duplicates(phash, 1), by_brute_force(phash, 1))


def test_merged_groups_are_connected_through_any_labeling():
    assert merge_groups(["x", "y", "x", "z", "w"], [5, 6, 7, 7, 9]).tolist() == [0, 1, 0, 0, 4]


def picture(seed, side=128):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (6, 6)).astype(np.float32)
    return np.kron(coarse, np.ones((side // 6 + 1, side // 6 + 1)))[:side, :side].astype(np.uint8)


def bits_apart(one, other):
    return (one ^ other).bit_count()


def test_perceptual_hash_finds_the_same_scene_and_no_other():
    rng = np.random.default_rng(0)
    strangers, siblings = [], []
    for seed in range(20):
        base = picture(seed)
        noisy = (base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8)
        brighter = (base * 0.8 + 20).astype(np.uint8)
        siblings += [bits_apart(perceptual_hash(base), perceptual_hash(x)) for x in (noisy, brighter)]
        strangers.append(bits_apart(perceptual_hash(base), perceptual_hash(picture(seed + 100))))
    assert max(siblings) <= 7 and min(strangers) > 12


def test_flat_pictures_are_no_duplicates_unless_equal():
    flat = [perceptual_hash(np.full((128, 128), level, np.uint8)) for level in (0, 0, 1, 128, 255)]
    assert flat[0] == flat[1]
    assert near_duplicates(np.array(flat, np.uint64), 7).tolist() == [0, 0, 2, 3, 4]


def photos(seed=0, count=1500, groups=110):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count)
    mos = (rng.normal(5.5, 1, count) + rng.normal(0, 1, groups)[group]).clip(0, 10)
    mos[rng.random(count) < 0.2] = np.nan
    return mos, merge_groups(group), rng.random(count) < 0.6


def test_folds_are_even_and_groups_stay_together():
    mos, groups, captioned = photos()
    folds = assign_folds(mos, groups, 3, None, 0, captioned)
    check_folds(folds, groups)
    for fold in range(3):
        inside = folds == fold
        assert abs(inside.mean() - 1 / 3) < 0.01
        assert abs(np.nanmean(mos[inside]) - np.nanmean(mos)) < 0.05
        assert abs(np.nanstd(mos[inside]) - np.nanstd(mos)) < 0.1
        assert abs(captioned[inside].mean() - captioned.mean()) < 0.02
        assert abs(np.isnan(mos[inside]).mean() - np.isnan(mos).mean()) < 0.02


def test_single_photos_are_spread_almost_exactly():
    mos, _, captioned = photos(1, 2000)
    folds = assign_folds(mos, np.arange(2000), 5, None, 0, captioned)
    assert np.ptp(np.bincount(folds)) <= 4
    assert np.ptp([np.nanmean(mos[folds == k]) for k in range(5)]) < 0.03  # random folds: 0.2


def test_assignment_follows_its_seed():
    mos, groups, captioned = photos()
    first, again = (assign_folds(mos, groups, 3, None, 0, captioned) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (assign_folds(mos, groups, 3, None, 1, captioned) != first).mean() > 0.2


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_holdout(share):
    mos, groups, captioned = photos()
    folds = assign_folds(mos, groups, 3, share, 0, captioned)
    assert set(folds.tolist()) == {0, -1}
    assert abs((folds == 0).mean() - share) < 0.01
    assert abs(np.nanmean(mos[folds == 0]) - np.nanmean(mos)) < 0.1
    check_folds(folds, groups)


def test_without_any_mos_or_caption():
    folds = assign_folds(np.full(30, np.nan), np.arange(30), 3, None, 0, np.zeros(30, bool))
    assert np.bincount(folds).tolist() == [10, 10, 10]


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_folds_as_groups_give_each_group_a_fold(count, seed):
    rng = np.random.default_rng(seed)
    alone = assign_folds(rng.normal(5, 1, count), np.arange(count), count, None, seed, rng.random(count) < 0.5)
    assert sorted(alone) == list(range(count))
    groups = np.r_[np.zeros(30, int), np.arange(count)]  # one group outweighs all others together
    uneven = assign_folds(rng.normal(5, 1, 30 + count), groups, count, None, seed, np.ones(30 + count, bool))
    check_folds(uneven, groups)
    assert len(set(uneven.tolist())) == count


def test_too_few_groups_and_senseless_numbers():
    arguments = np.arange(4.0), np.zeros(4, int)
    for folds, holdout in ((3, None), (1, None), (3, 0.0), (3, 1.5)):
        with pytest.raises(InputError):
            assign_folds(*arguments, folds, holdout, 0, np.ones(4, bool))


def test_a_leak_is_loud():
    check_folds(np.array([0, 0, 1]), ["a", "a", "b"])
    with pytest.raises(Leak, match="fold 1"):
        check_folds(np.array([0, 1, 1]), ["a", "a", "b"])


def test_summary_counts_and_the_file_gives_back_its_folds(tmp_path):
    frame = pd.DataFrame(
        {"photo_id": ["a", "007", "c"], "mos": [1.0, 3.0, np.nan], "captions": [("x", "y"), (), ("z",)]}
    )
    folds = np.array([0, 0, 1])
    rows = fold_summary(frame, folds).to_dict("records")
    first = {"fold": 0, "photos": 2, "with_mos": 2, "mean_mos": 2.0, "sd_mos": 1.0, "captioned": 1, "captions": 2}
    assert rows[0] == first
    assert (rows[1]["photos"], rows[1]["with_mos"], rows[1]["captions"]) == (1, 0, 1)
    save_folds(tmp_path / "folds.csv", frame["photo_id"], folds)
    np.testing.assert_array_equal(load_folds(tmp_path / "folds.csv", frame["photo_id"]), folds)
    for other in (["a", "007"], ["a", "007", "d"]):
        with pytest.raises(InputError, match="split again"):
            load_folds(tmp_path / "folds.csv", other)

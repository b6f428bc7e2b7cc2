"""The demo competition: its layout, its bytes, and that photos, scores and comments follow the stated model."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from src.base.errors import InputError
from src.demo import competition as demo_competition
from src.demo import rating
from src.demo.comments import fault_name
from src.demo.distortions import KINDS, Distortion, distort
from src.demo.sources import PHOTOGRAPHS, _photograph, drawings, render
from tests.helpers.tables import rows_of

TRAIN, TEST = 48, 12


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    root = tmp_path_factory.mktemp("competition") / "demo"
    demo_competition.make_competition(root, progress=False, seed=3, train=TRAIN, test=TEST, processes=1)
    return root


@pytest.fixture(scope="module")
def full_plan():
    return demo_competition.plan(0, 1500, 300)


@pytest.fixture(scope="module")
def clean():
    return render(PHOTOGRAPHS["train"][0], 0, np.random.default_rng(5), 128, 160)


def test_layout_is_the_competitions(competition):
    train, test = rows_of(competition / "train.csv"), rows_of(competition / "test.csv")
    assert list(train[0]) == ["img_name", "img_path", "mos", "comments", "group"]
    assert list(test[0]) == ["img_name", "img_path"]
    assert len({row["img_name"] for row in train}) == TRAIN and len(test) == TEST
    assert not {row["img_name"] for row in train} & {row["img_name"] for row in test}
    for part, rows in (("train", train), ("test", test)):
        names = {row["img_name"] for row in rows}
        assert all(re.fullmatch(r"[a-z0-9]{10}", name) for name in names)
        assert any(re.fullmatch(r"0[0-9]{9}", name) for name in names)
        assert all(row["img_path"] == f"./{part}/{row['img_name']}.jpg" for row in rows)
        assert {path.stem for path in (competition / part).iterdir()} == names
    assert all(all(row.values()) for row in train)
    sample = rows_of(competition / "sample_submission.csv")
    assert list(sample[0]) == ["img_name", "mos", "comments"] and all(all(row.values()) for row in sample)
    assert [row["img_name"] for row in sample] == [row["img_name"] for row in test]
    labels = rows_of(competition / "test_labels.csv")
    assert list(dict.fromkeys(row["img_name"] for row in labels)) == [row["img_name"] for row in test]
    assert len({tuple(row.values()) for row in labels}) == len(labels)


def test_train_rows_are_as_untidy_as_the_real_ones(competition):
    rows = [tuple(row.values()) for row in rows_of(competition / "train.csv")]
    assert len(set(rows)) < len(rows), "no exact duplicate row"
    scores, comments = {}, {}
    for name, _, mos, comment, _ in set(rows):
        scores.setdefault(name, set()).add(mos)
        comments.setdefault(name, []).append(comment)
    assert all(len(values) == 1 for values in scores.values())
    assert {len(values) for values in comments.values()} == {1, 2, 3, 4}


def test_equal_seeds_give_equal_bytes_for_any_number_of_processes(competition, tmp_path):
    demo_competition.make_competition(tmp_path / "again", progress=False, seed=3, train=TRAIN, test=TEST, processes=2)
    assert _bytes(tmp_path / "again") == _bytes(competition)
    demo_competition.make_competition(tmp_path / "other", progress=False, seed=4, train=4, test=2)
    assert not set(_bytes(tmp_path / "other")["train.csv"].split(b"\n")[1:]) & set(
        (competition / "train.csv").read_bytes().split(b"\n")[1:-1]
    ) - {b""}


def test_photos_are_small_rgb_jpegs_that_tell_nothing_about_their_label(competition):
    tables = set()
    for path in competition.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "RGB" and all(128 <= side <= 192 for side in image.size)
            assert not image.getexif()
            tables.add(str(image.quantization))
    assert len(tables) == 1


def test_names_order_and_size_say_nothing_about_the_score(full_plan):
    for part, count in (("train", 1500), ("test", 300)):
        photos = [photo for photo in full_plan if photo.part == part]
        assert len(photos) == count
        mos = [photo.mos for photo in photos]
        by_name = np.argsort(np.argsort([photo.name for photo in photos]))
        for position in (range(count), by_name, [photo.size[0] * photo.size[1] for photo in photos]):
            assert spearmanr(position, mos).pvalue > 0.01


def test_no_source_is_in_both_parts(full_plan):
    groups = {part: {photo.source.group for photo in full_plan if photo.part == part} for part in ("train", "test")}
    assert not groups["train"] & groups["test"]
    assert groups["train"] >= {source.group for source in (*PHOTOGRAPHS["train"], *drawings("train"))}
    assert len(drawings("train")) >= 30 and len(drawings("test")) >= 10 and len(PHOTOGRAPHS["test"]) >= 2
    nouns = {photo.source.noun for photo in full_plan if photo.part == "train"}
    assert {photo.source.noun for photo in full_plan if photo.part == "test"} <= nouns


def test_every_drawn_group_has_a_look_of_its_own_and_detail_to_lose():
    pictures = [render(source, 0, np.random.default_rng(1), 64, 80) for source in drawings("train")]
    for index, picture in enumerate(pictures):
        luma = picture.astype(float).mean(axis=2)
        assert luma.std() > 5 and np.abs(luma - gaussian_filter(luma, 1)).mean() > 0.5, drawings("train")[index].group
    distances = [np.abs(a.astype(int) - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(distances) > 2


def test_every_kind_occurs_about_equally_often_and_some_photos_have_none_or_two(full_plan):
    kinds = [item.kind for photo in full_plan for item in photo.distortions]
    counts = {kind: kinds.count(kind) for kind in KINDS}
    assert min(counts.values()) > 0.4 * max(counts.values())
    counts = [len(photo.distortions) for photo in full_plan]
    assert 0.10 < counts.count(0) / len(counts) < 0.18 and 0.15 < counts.count(2) / len(counts) < 0.25
    assert all(len({KINDS[item.kind].family for item in p.distortions}) == len(p.distortions) for p in full_plan)


@pytest.mark.parametrize("kind", KINDS)
def test_score_falls_and_damage_grows_with_strength(kind, clean):
    strengths = [KINDS[kind].strength(share) for share in (0.0, 0.33, 0.67, 1.0)]
    scores = [rating.expected_score(7.5, (Distortion(kind, strength),)) for strength in strengths]
    assert all(first - second > 0.3 for first, second in zip(scores, scores[1:], strict=False))
    images = [distort(clean, (Distortion(kind, strength),), np.random.default_rng(2)) for strength in strengths]
    damage = [np.square(image.astype(float) - clean).mean() for image in images]
    assert damage[0] > 15 and all(first < second for first, second in zip(damage, damage[1:], strict=False))


def test_rule_is_that_of_bt_500():
    noise = KINDS["noise"]
    assert noise.impairment(noise.low) == pytest.approx(noise.mild)
    assert noise.impairment(noise.high) == pytest.approx(noise.severe)
    assert noise.impairment(np.sqrt(noise.low * noise.high)) == pytest.approx(np.sqrt(noise.mild * noise.severe))
    pair = (Distortion("noise", noise.low), Distortion("blur", KINDS["blur"].low))
    assert rating.impairment(pair) == pytest.approx(0.16 + 0.16)
    assert rating.expected_score(7.2, pair) == pytest.approx(1.2 + 6.0 / 1.32)
    assert rating.expected_score(7.2, ()) == pytest.approx(7.2)


def test_mean_opinion_score_scatters_around_the_expectation():
    rng, biases = np.random.default_rng(0), rating.panel(0)
    scores = np.array([rating.mean_opinion_score(5.0, biases, rng) for _ in range(2000)])
    assert abs(scores.mean() - 5.0) < 0.03 and 0.2 < scores.std() < 0.35


def test_scores_spread_like_real_ones(full_plan):
    mos = np.array([photo.mos for photo in full_plan])
    assert 5.0 < mos.mean() < 6.0 and 1.2 < mos.std() < 1.6 and mos.min() > 0 and mos.max() < 10


def test_distortions_do_what_they_say(clean):
    grey = np.full((128, 160, 3), 120, np.uint8)
    rng = np.random.default_rng(0)
    noisy = distort(grey, (Distortion("noise", 20.0),), rng).astype(float)
    assert noisy.std() == pytest.approx(20.0, rel=0.03)
    assert distort(grey, (Distortion("dark", 2.2),), rng) == pytest.approx(60, abs=1)
    assert distort(grey, (Distortion("bright", 2.2),), rng) == pytest.approx(240, abs=1)
    faded = distort(clean, (Distortion("faded", 1.0),), rng).astype(int)
    assert np.ptp(faded, axis=2).max() <= 1
    assert all(len(np.unique(channel)) <= 5 for channel in distort(clean, (Distortion("banding", 60),), rng).T)
    blurred = distort(clean, (Distortion("blur", 2.0),), rng)
    expected = gaussian_filter(clean.astype(float), (2.0, 2.0, 0), mode="mirror")
    assert np.abs(blurred - expected).mean() < 1
    flat = distort(clean, (Distortion("flat", 3.0),), rng)
    assert flat.std(axis=(0, 1)) == pytest.approx(clean.std(axis=(0, 1)) / 3, rel=0.05)
    warm, cold = (distort(grey, (Distortion(kind, 1.5),), rng)[0, 0].astype(int) for kind in ("yellow", "blue"))
    assert warm[0] > warm[2] + 40 and cold[2] > cold[0] + 40


def test_order_of_distortions_does_not_matter(clean):
    pair = (Distortion("jpeg", 8.0), Distortion("dark", 2.0))
    first, second = (distort(clean, order, np.random.default_rng(0)) for order in (pair, pair[::-1]))
    assert np.array_equal(first, second)


def test_comments_read_like_real_ones(full_plan):
    comments = [comment for photo in full_plan for comment in photo.comments]
    lengths = [len(comment.split()) for comment in comments]
    assert 11 <= np.median(lengths) <= 14 and min(lengths) >= 5 and max(lengths) <= 25
    assert all(re.fullmatch(r"[a-z, ]+", comment) and "{" not in comment for comment in comments)
    words = [word for comment in comments for word in comment.replace(",", " ").split()]
    assert 150 < len(set(words)) < 300
    counts = [len(photo.comments) for photo in full_plan]
    assert all(len(set(photo.comments)) == len(photo.comments) for photo in full_plan)
    assert set(counts) == {1, 2, 3, 4} and 0.4 < counts.count(1) / len(counts) < 0.6


def test_comments_name_what_was_done_to_the_photo(full_plan):
    faults = [
        (photo, photo.distortions[0].kind, rating.level(photo.distortions[0]))
        for photo in full_plan
        if photo.distortions
    ]
    told = [
        any(fault_name(kind, wording, level) in comment for wording in range(2))
        for photo, kind, level in faults
        for comment in photo.comments
    ]
    assert 0.88 < np.mean(told) < 0.97, "most raters see what was done, a few speak of something else"
    assert {level for _, _, level in faults} == {0, 1, 2}


def test_a_failure_leaves_what_was_there(competition, tmp_path, monkeypatch):
    demo_competition.make_competition(tmp_path / "demo", progress=False, train=3, test=2)
    before = _bytes(tmp_path / "demo")

    def broken(photo):
        raise OSError("no space")

    monkeypatch.setattr(demo_competition, "draw", broken)
    with pytest.raises(OSError, match="no space"):
        demo_competition.make_competition(tmp_path / "demo", progress=False, seed=1, train=3, test=2)
    assert _bytes(tmp_path / "demo") == before


def test_a_missing_package_is_named(monkeypatch):
    _photograph.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="skimage"):
        _photograph("skimage", "data/coffee.png")

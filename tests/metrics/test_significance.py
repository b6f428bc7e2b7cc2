"""The paired bootstrap against plain resampling, scipy and coverage on simulated systems."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from scipy import stats

from src.metrics.bootstrap import resample_counts
from src.metrics.caption_scores import score_captions
from src.metrics.meteor import meteor_score
from src.metrics.mos_score import resampled_mos_scores
from src.metrics.significance import paired, paired_captions, paired_mos
from src.settings.schema import CaptionWeights
from tests.metrics.test_caption_scores import made_up


def plainly(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Interval and p of differences, resample by resample."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    above, below = sum(d >= 0 for d in differences), sum(d <= 0 for d in differences)
    low, high = np.quantile(differences, [0.025, 0.975])
    return low, high, min(1, 2 * (min(above, below) + 1) / (len(differences) + 1))


def draws(photos: int, resamples: int, seed: int) -> list[np.ndarray]:
    """The photos of each resample, one after another."""
    counts = np.concatenate(list(resample_counts(photos, resamples, seed))).astype(int)
    return [np.repeat(np.arange(photos), row) for row in counts]


def test_paired_mos_equals_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    truth = rng.normal(5, 1, 40).round(1)
    systems = [truth + rng.normal(0, spread, 40).round(1) for spread in (1, 1.5)]

    def plain(pred: np.ndarray, rows: np.ndarray) -> float:
        x, y = pred[rows], truth[rows]
        return (max(stats.pearsonr(x, y).statistic, 0) + max(stats.spearmanr(x, y).statistic, 0)) / 2

    samples = draws(40, 60, seed=3)
    low, high, p = plainly(*([plain(pred, rows) for rows in samples] for pred in systems))
    test = paired_mos(*systems, truth, 60, 3)
    assert (test.low, test.high, test.p) == pytest.approx((low, high, p), abs=1e-9) and test.photos == 40
    whole = np.arange(40)
    assert test.difference == pytest.approx(plain(systems[0], whole) - plain(systems[1], whole))
    assert paired_mos(truth[:2], truth[:2], truth[:2], 60, 3) is None
    assert paired(0.0, np.zeros(50), 9).p == 1


def test_paired_captions_equal_a_plain_bootstrap(meteor):
    references, good = made_up(12, 0)
    good = [group[0] if index % 2 else text for index, (group, text) in enumerate(zip(references, good, strict=True))]
    both = [
        score_captions(references, captions, tokenized=True, meteor=meteor) for captions in (good, made_up(12, 1)[1])
    ]

    def plain(captions: list[str], one, rows: np.ndarray) -> float:
        places = range(len(rows))
        truth, written = ({i: group[rows[i]] for i in places} for group in (references, [[text] for text in captions]))
        bleu = Bleu(4).compute_score(truth, written, verbose=0)[0]
        meteor_part = meteor_score(one.meteor_stats[rows].sum(axis=0))
        return 4 * one.cider[rows].mean() + 3 * meteor_part + bleu[2] + bleu[3] + one.rouge[rows].mean()

    samples, written = draws(12, 40, seed=7), (good, made_up(12, 1)[1])
    pairs = list(zip(written, both, strict=True))
    low, high, p = plainly(*([plain(captions, one, rows) for rows in samples] for captions, one in pairs))
    test = paired_captions(*both, CaptionWeights(), 40, 7)
    assert (test.low, test.high, test.p) == pytest.approx((low, high, p), rel=1e-6)
    whole = np.arange(12)
    assert test.difference == pytest.approx(plain(*pairs[0], whole) - plain(*pairs[1], whole), rel=1e-6)
    assert paired_captions(*(one.subset([0, 1]) for one in both), CaptionWeights(), 40, 7) is None
    with pytest.raises(ValueError, match="the same photos"):
        paired_captions(both[0], both[1].subset([0, 1, 2]), CaptionWeights(), 40, 7)


@pytest.mark.parametrize("size", [0.0, 0.5, 2.0, 3.0])
def test_p_of_normal_differences_is_that_of_a_normal_test(size):
    resampled = stats.norm.ppf((np.arange(4000) + 0.5) / 4000, loc=size)
    test = paired(size, resampled, 100)
    assert test.p == pytest.approx(2 * stats.norm.sf(size), abs=1e-3)
    assert (test.low, test.high) == pytest.approx((size - 1.96, size + 1.96), abs=0.01)


@pytest.mark.parametrize("truth", [np.arange(2.0), np.full(9, 4.0)])
def test_labels_without_a_correlation_give_no_test(truth):
    assert paired_mos(np.arange(len(truth)), -np.arange(len(truth)), truth, 100, 0) is None


def test_equal_systems_are_seldom_told_apart_and_pairing_narrows_the_interval():
    rng, covered, narrower = np.random.default_rng(0), 0, []
    for _ in range(60):
        truth = rng.normal(5, 1, 80)
        shared = truth + rng.normal(0, 1, 80)  # photos that are hard for one system are hard for the other
        systems = [shared + rng.normal(0, 0.3, 80) for _ in range(2)]
        test = paired_mos(*systems, truth, 100, 0)
        covered += test.low <= 0 <= test.high
        assert (test.p > 0.06) <= (test.low <= 0 <= test.high)
        if len(narrower) < 5:
            apart = [resampled_mos_scores(pred, truth, 100, seed) for seed, pred in enumerate(systems)]
            low, high = np.percentile(apart[0] - apart[1], [2.5, 97.5])
            narrower.append((test.high - test.low) / (high - low))
    assert 52 <= covered <= 60, "95% of 60, give or take"
    assert max(narrower) < 0.7

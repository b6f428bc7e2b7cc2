"""Is one system better than another on the same photos? The paired bootstrap test.

Photos are resampled, the same ones for both systems, and the difference of the scores is computed in each resample
(Efron & Tibshirani 1993, An Introduction to the Bootstrap; Koehn 2004, Statistical Significance Tests for Machine
Translation Evaluation). Photos that are hard for both systems cancel out, so the test is sharper than a comparison of
two separate intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.metrics.bootstrap import interval, resample_counts
from src.metrics.caption_scores import CaptionScores
from src.metrics.competition_score import caption_score, resampled_caption_scores
from src.metrics.mos_score import FEWEST, is_measurable, mos_score, resampled_mos_scores
from src.settings.schema import CaptionWeights


@dataclass(frozen=True)
class Paired:
    """A system's score minus the reference's on the same photos, with its 95% interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    photos: int


def paired(difference: float, resampled: np.ndarray, photos: int) -> Paired:
    """The test from the observed difference and that of each resample.

    p is twice the smaller share of resamples on either side of 0 (those at 0 count on both), at most 1. The observed
    difference counts as one more resample on each side (Davison & Hinkley 1997), so that p is never 0.
    """
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p = min(1.0, 2 * (1 + int(tail)) / (1 + len(resampled)))
    return Paired(float(difference), *interval(resampled), p, photos)


def paired_captions(
    system: CaptionScores, reference: CaptionScores, weights: CaptionWeights, resamples: int, seed: int
) -> Paired | None:
    """Test of the caption score; both were scored on the same photos in the same order. None below FEWEST photos."""
    if system.photos != reference.photos:
        raise ValueError(f"a pair needs the same photos, not {system.photos} and {reference.photos}")
    if system.photos < FEWEST:
        return None
    whole = caption_score(system.totals(), weights) - caption_score(reference.totals(), weights)
    ours, theirs = (resampled_caption_scores(scores, weights, resamples, seed) for scores in (system, reference))
    return paired(whole, ours - theirs, system.photos)


def paired_mos(
    system: np.ndarray, reference: np.ndarray, truth: np.ndarray, resamples: int, seed: int
) -> Paired | None:
    """Test of the MOS score: predictions of two systems and the labels, [photos] each. None where the labels
    have no MOS score (`is_measurable`)."""
    if not len(system) == len(reference) == len(truth):
        raise ValueError(f"a pair needs the same photos, not {len(system)}, {len(reference)} and {len(truth)}")
    if not is_measurable(truth):
        return None
    whole = mos_score(system, truth)["score"] - mos_score(reference, truth)["score"]
    ours, theirs = (resampled_mos_scores(predicted, truth, resamples, seed) for predicted in (system, reference))
    return paired(whole, ours - theirs, len(truth))


def paired_scores(
    system: Callable[[np.ndarray], np.ndarray],
    reference: Callable[[np.ndarray], np.ndarray],
    photos: int,
    resamples: int,
    seed: int,
) -> Paired | None:
    """Test of any score. None below FEWEST photos.

    system, reference: from how often each photo is drawn [samples, photos] to the score of each sample [samples], nan
    for a sample that has none; such samples do not count.
    """
    if photos < FEWEST:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = [system(counts) - reference(counts) for counts in resample_counts(photos, resamples, seed)]
        whole = np.ones((1, photos))
        observed = float((system(whole) - reference(whole))[0])
    resampled = np.concatenate(differences)
    return paired(observed, resampled[np.isfinite(resampled)], photos)

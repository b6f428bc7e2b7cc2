"""The competition's score (DACON 236134) with its 95% intervals, beside its baselines, as one JSON-able report."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from src.metrics.bootstrap import interval, resample_counts
from src.metrics.caption_scores import CaptionScores
from src.metrics.mos_score import bootstrap_mos, mos_score
from src.settings.schema import CaptionWeights


def caption_score(scores: Mapping[str, Any], weights: CaptionWeights) -> Any:
    """The weighted sum of cider_d, meteor, the mean of bleu3 and bleu4, and rouge_l: of numbers or of arrays."""
    return (
        weights.cider_d * scores["cider_d"]
        + weights.meteor * scores["meteor"]
        + weights.bleu * (scores["bleu3"] + scores["bleu4"]) / 2
        + weights.rouge_l * scores["rouge_l"]
    )


def resampled_caption_scores(scores: CaptionScores, weights: CaptionWeights, resamples: int, seed: int) -> np.ndarray:
    """The caption score of each of `resamples` bootstrap samples of the photos.

    BLEU's and METEOR's counts are summed in each; CIDEr-D keeps the document frequencies of all photos.
    """
    blocks = resample_counts(scores.photos, resamples, seed)
    return np.concatenate([caption_score(scores.resampled(counts), weights) for counts in blocks])


def bootstrap_captions(
    scores: CaptionScores, weights: CaptionWeights, resamples: int, seed: int
) -> tuple[float, float]:
    """95% percentile interval of the caption score over resampled photos; (nan, nan) below 3 photos."""
    if scores.photos < 3:
        return math.nan, math.nan
    return interval(resampled_caption_scores(scores, weights, resamples, seed))


def mos_block(pred: np.ndarray, truth: np.ndarray, resamples: int, seed: int) -> dict | None:
    """plcc, srcc, score, interval, photos; None without photos, and None for what too few photos leave undefined."""
    if not len(truth):
        return None
    bounds = bootstrap_mos(pred, truth, resamples, seed) if resamples else (math.nan, math.nan)
    return _plain({**mos_score(pred, truth), "interval": list(bounds), "photos": len(truth)})


def caption_block(scores: CaptionScores | None, weights: CaptionWeights, resamples: int, seed: int) -> dict | None:
    """bleu1..4, meteor, rouge_l, cider_d, wer, score, interval, photos; None without photos."""
    if scores is None:
        return None
    totals = scores.totals()
    bounds = bootstrap_captions(scores, weights, resamples, seed) if resamples else (math.nan, math.nan)
    block = {**totals, "score": caption_score(totals, weights), "interval": list(bounds), "photos": scores.photos}
    return _plain(block)


def report(
    quality: dict | None,
    caption: dict | None,
    baseline_quality: float | None = None,
    baseline_caption: float | None = None,
    sentence: str | None = None,
    warnings: list[str] | None = None,
) -> dict:
    """The report of one evaluation: quality, caption (as the blocks above), baseline, warnings. Holds no NaN.

    A score under its baseline is an warning of its own.
    """
    found = list(warnings or [])
    for name, block, baseline in (("MOS", quality, baseline_quality), ("caption", caption, baseline_caption)):
        if block is not None and baseline is not None and block["score"] < baseline:
            found.append(f"the {name} score {block['score']:.4f} is under its baseline {baseline:.4f}")
    baselines = {"mos": baseline_quality, "caption": baseline_caption, "sentence": sentence}
    return {"mos": quality, "caption": caption, "baseline": _plain(baselines), "warnings": found}


def _plain(block: dict) -> dict:
    """The same with Python numbers; NaN becomes None, and so does an interval that holds one."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return None if any(math.isnan(bound) for bound in value) else [float(bound) for bound in value]
        if isinstance(value, (float, np.floating)):
            return None if math.isnan(value) else float(value)
        return value

    return {name: plain(value) for name, value in block.items()}

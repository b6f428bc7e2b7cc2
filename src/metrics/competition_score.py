"""The competition's score (DACON 236134) with its 95% intervals, beside its floors, as one JSON-able report."""

import math
from typing import Any

import numpy as np

from src.metrics.bootstrap import interval, resample_counts
from src.metrics.caption_scores import CaptionScores
from src.metrics.mos_score import bootstrap_quality, quality_score


def caption_score(scores: dict[str, Any], weights) -> Any:
    """The weighted sum cider_d, meteor, mean of BLEU-3 and BLEU-4, rouge_l: of numbers, or of arrays of resamples."""
    return (
        weights.cider_d * scores["cider_d"]
        + weights.meteor * scores["meteor"]
        + weights.bleu * (scores["bleu3"] + scores["bleu4"]) / 2
        + weights.rouge_l * scores["rouge_l"]
    )


def resampled_caption_scores(scores: CaptionScores, weights, resamples: int, seed: int) -> np.ndarray:
    """The caption score of each of `resamples` resampled sets of photos.

    BLEU's and METEOR's counts are summed anew in each; CIDEr-D keeps the document frequencies of all photos.
    """
    blocks = resample_counts(scores.photos, resamples, seed)
    return np.concatenate([caption_score(scores.resampled(counts), weights) for counts in blocks])


def bootstrap_captions(scores: CaptionScores, weights, resamples: int, seed: int) -> tuple[float, float]:
    """95% percentile interval of the caption score over resampled photos; (nan, nan) below 3 photos."""
    if scores.photos < 3:
        return math.nan, math.nan
    return interval(resampled_caption_scores(scores, weights, resamples, seed))


def quality_block(pred, truth, resamples: int, seed: int) -> dict | None:
    """plcc, srcc, score, interval, photos; None without photos, and None for what too few photos leave undefined."""
    if not len(truth):
        return None
    bounds = bootstrap_quality(pred, truth, resamples, seed) if resamples else (math.nan, math.nan)
    return _plain({**quality_score(pred, truth), "interval": list(bounds), "photos": len(truth)})


def caption_block(scores: CaptionScores | None, weights, resamples: int, seed: int) -> dict | None:
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
    floor_quality: float | None = None,
    floor_caption: float | None = None,
    sentence: str | None = None,
    alarms: list[str] | None = None,
) -> dict:
    """The report of one evaluation: quality, caption (as the blocks above), floor, alarms. Holds no NaN.

    A score under its floor is an alarm of its own.
    """
    found = list(alarms or [])
    for name, block, floor in (("MOS", quality, floor_quality), ("caption", caption, floor_caption)):
        if block is not None and floor is not None and block["score"] < floor:
            found.append(f"the {name} score {block['score']:.4f} is under its floor {floor:.4f}")
    floors = {"quality": floor_quality, "caption": floor_caption, "sentence": sentence}
    return {"quality": quality, "caption": caption, "floor": _plain(floors), "alarms": found}


def _plain(block: dict) -> dict:
    """The same with Python numbers; NaN becomes None, and so does an interval that holds one."""

    def plain(value):
        if isinstance(value, list):
            return None if any(math.isnan(bound) for bound in value) else [float(bound) for bound in value]
        if isinstance(value, (float, np.floating)):
            return None if math.isnan(value) else float(value)
        return value

    return {name: plain(value) for name, value in block.items()}

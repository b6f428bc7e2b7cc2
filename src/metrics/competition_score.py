"""The caption score of the competition (DACON 236134), of all photos and in bootstrap samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from src.metrics.bootstrap import resample_counts
from src.metrics.caption_scores import CaptionScores
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

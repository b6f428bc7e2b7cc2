"""ROUGE-L (Lin 2004): the longest common subsequence of words, as pycocoevalcap's Rouge counts it."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

BETA = 1.2
"""Weight of recall in the F-measure."""


def rouge_f(precision: np.ndarray | float, recall: np.ndarray | float) -> np.ndarray:
    """The F-measure of numbers or arrays; 0 where both are."""
    precision, recall = np.asarray(precision), np.asarray(recall)
    total = np.asarray(recall + BETA**2 * precision, dtype=np.float64)
    return np.divide((1 + BETA**2) * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def rouge_l(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> np.ndarray:
    """ROUGE-L [photos] of tokenised captions: F-measure of the best precision and best recall over the references.

    Words are what single blanks separate, and an empty caption is one empty word, both as in pycocoevalcap.
    """
    best = np.zeros((2, len(candidates)))
    for photo, (group, candidate) in enumerate(zip(references, candidates, strict=True)):
        ours = candidate.split(" ")
        for reference in group:
            theirs = reference.split(" ")
            common = LCSseq.similarity(ours, theirs)
            best[:, photo] = np.maximum(best[:, photo], (common / len(ours), common / len(theirs)))
    return rouge_f(*best)

"""pycocoevalcap's scorers, which the metrics are compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def official_scores(
    scorer: Any, references: Sequence[list[str]], candidates: Sequence[str]
) -> tuple[float | list[float], np.ndarray]:
    """The corpus score and the scores by photo of one of its classes; Bleu has a row for each order."""
    options = {"verbose": 0} if type(scorer).__name__ == "Bleu" else {}
    truth, captions = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    score, by_photo = scorer.compute_score(truth, captions, **options)
    return score, np.array(by_photo)

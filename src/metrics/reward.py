"""Rewards of sampled captions for self-critical training: the competition's metrics in any weighting, on token ids.

CIDEr-D, BLEU-3, BLEU-4 and ROUGE-L equal what pycocoevalcap's Cider, Bleu (option "closest") and Rouge give a sentence,
with token ids for words; METEOR is its proxy (`meteor_proxy`). <end> is a word like any other (Rennie et al. 2017, and
their code): without it, captions learn to break off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics.bleu_cider import bleu_scores
from src.metrics.comparisons import Comparisons, prepare
from src.metrics.meteor_proxy import word_table
from src.metrics.ngrams import CaptionTokens, inverse_document_frequencies

_PAD = 0


@dataclass(frozen=True)
class RewardWeights:
    """What each metric counts for. CIDEr-D lies between 0 and 10, the others between 0 and 1."""

    cider_d: float = 0.0
    bleu3: float = 0.0
    bleu4: float = 0.0
    rouge_l: float = 0.0
    meteor: float = 0.0
    length: float = 0.0
    """Of the number of words by which a sample differs from its references' mean length, negative."""

    def total(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """The weighted sum [M] of `Reward.parts`."""
        return sum(getattr(self, name) * part for name, part in parts.items())


class Reward:
    """Scores samples against the references of their photos; keeps nothing from call to call."""

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        firsts: np.ndarray,
        rows: np.ndarray,
        weights: RewardWeights,
        words: Sequence[str] | None = None,
    ):
        """tokens, starts, firsts: the captions of all N photos, <end> included, as in `CaptionTokens`.

        rows: the training photos, whose references give CIDEr-D's document frequencies; other photos can be scored
        too. weights: one of them at least is not 0. words: by token id, needed where METEOR counts. Raises InputError
        where an id exceeds 65,535.
        """
        self._weights = weights
        captions = CaptionTokens(tokens, starts, firsts)
        table = word_table(words or ()) if weights.meteor else None
        self._references = prepare(captions, inverse_document_frequencies(captions, rows), table)

    def __call__(self, rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """The weighted sum of the metrics, float64 [M]; arguments as in `parts`."""
        return self._weights.total(self.parts(rows, samples))

    def parts(self, rows: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics whose weight is not 0, by name, float64 [M] each; 0 for a photo without references.

        rows int [M]: the photo of each sample, in any order, repeated at will. samples int [M, T]: token ids up to
        <end>, then padding. Raises InputError where an id exceeds 65,535.
        """
        referenced = np.diff(self._references.captions.firsts)[rows] > 0
        is_word = samples[referenced] != _PAD
        comparisons = Comparisons(self._references, rows[referenced], samples[referenced][is_word], is_word.sum(axis=1))
        parts = {}
        for name, metric in METRICS.items():
            if getattr(self._weights, name):
                parts[name] = np.zeros(len(rows))
                parts[name][referenced] = metric(comparisons)
        return parts


METRICS: dict[str, Callable[[Comparisons], np.ndarray]] = {
    "cider_d": Comparisons.cider_d,
    "bleu3": lambda samples: bleu_scores(samples.bleu_counts)[:, 2],
    "bleu4": lambda samples: bleu_scores(samples.bleu_counts)[:, 3],
    "rouge_l": Comparisons.rouge_l,
    "meteor": Comparisons.meteor,
    "length": lambda samples: -np.abs(samples.lengths - samples.mean(samples.reference_lengths)),
}
"""Each metric [M] of samples with all references of their photos. `length` is the difference in words, negative."""

"""Rewards of sampled captions for self-critical training: the competition's metrics in any weighting, on token ids.

CIDEr-D, BLEU-3, BLEU-4 and ROUGE-L equal what pycocoevalcap's Cider, Bleu (option "closest") and Rouge give a sentence,
with token ids for words; METEOR is a stand-in (see `Comparisons`). <end> is a word like any other (Rennie et al. 2017,
and their code): without it, captions learn to break off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics.comparisons import Comparisons, kinds_of, meteor_of, prepare
from src.metrics.ngram_table import rarities
from src.metrics.ngrams import bleu_scores, rouge_f


@dataclass(frozen=True)
class RewardWeights:
    """What each metric counts for. CIDEr-D lies between 0 and 10, the others between 0 and 1."""

    cider_d: float = 0.0
    bleu3: float = 0.0
    bleu4: float = 0.0
    rouge_l: float = 0.0
    meteor: float = 0.0
    length: float = 0.0
    """Of the words by which a sample differs from its references' mean length, which count against it."""

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
        """tokens int [sum]: the captions of all N photos in a row, <end> included; caption c is
        tokens[starts[c]:starts[c + 1]], and photo n has the captions firsts[n] to firsts[n + 1] - 1, or none.
        rows: the training photos, whose references give CIDEr-D's document frequencies; other photos can be scored
        too. weights: one of them at least is not 0. words: by token id, needed where METEOR counts. Raises InputError
        where an id exceeds 65,535.
        """
        self._weights = weights
        kinds = kinds_of(words) if weights.meteor else None
        self._references = prepare(tokens, starts, firsts, rarities(tokens, starts, firsts, rows), kinds)

    def __call__(self, rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """The weighted sum of the metrics, float64 [M]; arguments as in `parts`."""
        return self._weights.total(self.parts(rows, samples))

    def parts(self, rows: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics whose weight is not 0, by name, float64 [M] each; 0 for a photo without references.

        rows int [M]: the photo of each sample, in any order, repeated at will. samples int [M, T]: token ids up to
        <end>, then padding. Raises InputError where an id exceeds 65,535.
        """
        referenced = np.diff(self._references.firsts)[rows] > 0
        comparisons = Comparisons(self._references, rows[referenced], samples[referenced])
        out = {}
        for name, metric in METRICS.items():
            if getattr(self._weights, name):
                out[name] = np.zeros(len(rows))
                out[name][referenced] = metric(comparisons)
        return out


def _cider_d(both: Comparisons) -> np.ndarray:
    return np.bincount(both.sample, weights=both.cider_d(), minlength=len(both.several)) / both.several


def _rouge_l(both: Comparisons) -> np.ndarray:
    return rouge_f(*(np.maximum.reduceat(values, both.first) for values in both.rouge_l()))


def _length(both: Comparisons) -> np.ndarray:
    theirs = np.bincount(both.sample, weights=both.reference_lengths, minlength=len(both.several)) / both.several
    return -np.abs(both.lengths - theirs)


METRICS = {
    "cider_d": _cider_d,
    "bleu3": lambda both: bleu_scores(both.bleu_together)[:, 2],
    "bleu4": lambda both: bleu_scores(both.bleu_together)[:, 3],
    "rouge_l": _rouge_l,
    "meteor": lambda both: np.maximum.reduceat(meteor_of(both.meteor()), both.first),
    "length": _length,
}
"""Each metric [M] of samples with all references of their photos; of METEOR the best reference counts. `length` is the
difference in words, negative."""

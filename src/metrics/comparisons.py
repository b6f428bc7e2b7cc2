"""Captions against reference captions by every metric, on token ids and many at a time.

BLEU, CIDEr-D and ROUGE-L are those of pycocoevalcap with token ids for words; METEOR is its proxy (`meteor_proxy`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from src.metrics.bleu_cider import NgramComparison
from src.metrics.meteor_proxy import STEM_WEIGHT, WordTable, proxy_score
from src.metrics.ngrams import (
    CaptionTokens,
    InverseDocumentFrequency,
    NgramTable,
    as_texts,
    ngram_tables,
    sums_by_caption,
)
from src.metrics.rouge import rouge_f


@dataclass(frozen=True)
class References:
    """The reference captions of all photos, prepared."""

    captions: CaptionTokens
    tables: list[NgramTable]
    """Of orders 1 to 4."""
    texts: list[str]
    """Each caption with one character per token."""
    words: WordTable | None
    """None: METEOR is not asked for."""
    stems: list[NgramTable]
    """Of orders 1 and 2, with stems for words; empty where METEOR is not asked for."""
    weights: np.ndarray
    """Sum of METEOR's word weights of each caption [captions]; empty where METEOR is not asked for."""


def prepare(captions: CaptionTokens, idf: Sequence[InverseDocumentFrequency], words: WordTable | None) -> References:
    """words: needed for METEOR alone. Raises InputError where an id exceeds 65,535."""
    stems: list[NgramTable] = []
    weights = np.zeros(0)
    if words is not None:
        weights = sums_by_caption(words.weight[captions.tokens], captions.lengths)
        stems = ngram_tables(CaptionTokens(words.stem[captions.tokens], captions.starts, captions.firsts), idf[:2])
    texts = as_texts(captions.tokens, captions.lengths)
    return References(captions, ngram_tables(captions, idf), texts, words, stems, weights)


class Comparisons(NgramComparison):
    """As `NgramComparison`, with ROUGE-L and METEOR's proxy."""

    def __init__(self, references: References, photo: np.ndarray, tokens: np.ndarray, lengths: np.ndarray):
        """photo int [M]; tokens int [sum of lengths]: of all candidates in a row; lengths [M]."""
        super().__init__(references.captions, references.tables, photo, tokens, lengths)
        self._references = references

    def _rouge_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of the longest common subsequence [comparisons]."""
        texts = as_texts(self._tokens, self.lengths)
        ours = [texts[i] for i in self.candidate.tolist()]
        theirs = [self._references.texts[i] for i in self.reference.tolist()]
        common = process.cpdist(ours, theirs, scorer=LCSseq.similarity, dtype=np.float64)
        return common / np.maximum(self.lengths, 1)[self.candidate], common / np.maximum(self.reference_lengths, 1)

    def rouge_l_of_pairs(self) -> np.ndarray:
        """ROUGE-L of each candidate with each single reference [comparisons]."""
        return rouge_f(*self._rouge_parts())

    def rouge_l(self) -> np.ndarray:
        """ROUGE-L [M]: of the best precision and the best recall over the references."""
        precision, recall = (np.maximum.reduceat(values, self.first) for values in self._rouge_parts())
        return rouge_f(precision, recall)

    def meteor_counts_of_pairs(self) -> np.ndarray:
        """What METEOR's proxy sums, of each candidate with each single reference [comparisons, 5] (`proxy_score`)."""
        references, words = self._references, self._references.words
        assert words is not None, "references were prepared without METEOR"
        stems = NgramComparison(
            references.captions, references.stems, self._photo, words.stem[self._tokens], self.lengths
        )
        count, adjacent = stems.matches(1), stems.matches(2)
        weight = (1 - STEM_WEIGHT) * self.matches(1, words.weight) + STEM_WEIGHT * stems.matches(1, words.weight)
        ours, theirs = self.lengths[self.candidate], self.reference_lengths
        chunks = np.maximum(count - adjacent, np.minimum(count, 1))
        chunks[(chunks == 1) & (count == ours) & (count == theirs)] = 0
        possible = sums_by_caption(words.weight[self._tokens], self.lengths)[self.candidate]
        return np.column_stack([weight, possible, references.weights[self.reference], chunks, count])

    def meteor(self) -> np.ndarray:
        """METEOR's proxy [M]; the best reference counts."""
        return np.maximum.reduceat(proxy_score(self.meteor_counts_of_pairs()), self.first)

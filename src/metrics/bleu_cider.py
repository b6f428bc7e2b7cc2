"""BLEU (Papineni et al. 2002) and CIDEr-D (Vedantam et al. 2015) of many captions at a time, on token ids.

Both equal pycocoevalcap's Bleu (option "closest") and Cider (which is CIDEr-D), with token ids for words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.metrics.ngrams import (
    ORDERS,
    CaptionTokens,
    NgramTable,
    encode,
    find,
    inverse_document_frequencies,
    ngram_tables,
    packed_ngrams,
    ranges,
)

SIGMA = 6.0
"""Width of CIDEr-D's length penalty, in words."""


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 [..., 4] of summed counts [..., 10] (see `NgramComparison.bleu_counts`)."""
    small, tiny = 1e-9, 1e-15  # as in pycocoevalcap
    precision = (sums[..., :ORDERS] + tiny) / (sums[..., ORDERS : 2 * ORDERS] + small)
    score = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[..., -2:-1] + tiny) / (sums[..., -1:] + small)
    return score * np.exp(np.minimum(1 - 1 / ratio, 0))


def length_penalty(difference: np.ndarray) -> np.ndarray:
    """CIDEr-D's factor for captions that differ by so many words."""
    return np.exp(-(difference**2) / (2 * SIGMA**2))


@dataclass(frozen=True)
class _Ngrams:
    """The distinct n-grams of one order in each candidate, one entry each, sorted by candidate."""

    candidate: np.ndarray
    key: np.ndarray
    """Packed n-gram [entries]."""
    count: np.ndarray
    """Occurrences [entries]."""
    idf: np.ndarray
    """Inverse document frequency [entries]."""
    pair: np.ndarray
    """The table's pair of the photo and the n-gram; -1 where the photo's references lack it [entries]."""


@dataclass(frozen=True)
class _Shared:
    """The n-grams of one order that a candidate shares with a reference, one entry for each comparison."""

    entry: np.ndarray
    """Index among the entries of `_Ngrams`."""
    count: np.ndarray
    """Occurrences in the reference."""
    comparison: np.ndarray


class NgramComparison:
    """M candidates, each against each reference of its photo, of which there is one at least.

    Comparisons are ordered by candidate: `first` [M] is the first comparison of each candidate, `sizes` [M] their
    number; `candidate` and `reference` [comparisons] are the indices of the two captions, `lengths` [M] and
    `reference_lengths` [comparisons] their tokens.
    """

    def __init__(
        self,
        captions: CaptionTokens,
        tables: Sequence[NgramTable],
        photo: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ):
        """captions, tables: the references. photo int [M]; tokens [sum of lengths]: of all candidates in a row."""
        self._tables, self._photo, self._tokens = tables, photo, tokens
        self.lengths = lengths
        self.sizes = np.diff(captions.firsts)[photo]
        self.first = np.cumsum(self.sizes) - self.sizes
        self.candidate = np.repeat(np.arange(len(photo)), self.sizes)
        self.reference = ranges(captions.firsts[photo], self.sizes)
        self.reference_lengths = captions.lengths[self.reference]

    @cached_property
    def _orders(self) -> list[tuple[_Ngrams, NgramTable, _Shared]]:
        """For each order: the candidates' n-grams, the references', and what they share."""
        out = []
        for occurrences, table in zip(packed_ngrams(self._tokens, self.lengths), self._tables, strict=False):
            ngrams = self._count(*occurrences, table)
            out.append((ngrams, table, self._share(ngrams, table)))
        return out

    def _count(self, keys: np.ndarray, candidate: np.ndarray, table: NgramTable) -> _Ngrams:
        keys, ngram = np.unique(keys, return_inverse=True)
        entries, count = np.unique(candidate * len(keys) + ngram, return_counts=True)
        candidate, ngram = np.divmod(entries, max(len(keys), 1))
        pair = table.find(self._photo[candidate], find(table.keys, keys)[ngram])
        return _Ngrams(candidate, keys[ngram], count, table.idf.of(keys)[ngram], pair)

    def _share(self, ngrams: _Ngrams, table: NgramTable) -> _Shared:
        shared = np.flatnonzero(ngrams.pair >= 0)
        first = table.first[ngrams.pair[shared]]
        sizes = table.first[ngrams.pair[shared] + 1] - first
        theirs = ranges(first, sizes)
        entry = np.repeat(shared, sizes)
        return _Shared(entry, table.count[theirs], self.first[ngrams.candidate[entry]] + table.reference[theirs])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each candidate's references [M] of values [comparisons]."""
        return np.bincount(self.candidate, weights=values, minlength=len(self.sizes)) / self.sizes

    def matches(self, order: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Clipped matches of n-grams of one order [comparisons]; of words, each may count by the weights [ids]."""
        ngrams, _, shared = self._orders[order - 1]
        matched = np.minimum(ngrams.count[shared.entry], shared.count)
        if weights is not None:
            matched = matched * weights[ngrams.key[shared.entry]]
        return np.bincount(shared.comparison, weights=matched, minlength=len(self.candidate))

    def cider_d_of_pairs(self) -> np.ndarray:
        """CIDEr-D of each candidate with each single reference [comparisons]."""
        cosine = sum(self._cosine(*order) for order in self._orders) / ORDERS
        return 10 * cosine * length_penalty(self.lengths[self.candidate] - self.reference_lengths)

    def cider_d(self) -> np.ndarray:
        """CIDEr-D [M]."""
        return self.mean(self.cider_d_of_pairs())

    def _cosine(self, ngrams: _Ngrams, table: NgramTable, shared: _Shared) -> np.ndarray:
        """Clipped cosine of the tf-idf vectors of one order [comparisons]."""
        squares = np.bincount(ngrams.candidate, weights=(ngrams.count * ngrams.idf) ** 2, minlength=len(self._photo))
        norms = np.sqrt(squares)[self.candidate] * table.norms[self.reference]
        product = np.minimum(ngrams.count[shared.entry], shared.count) * shared.count * ngrams.idf[shared.entry] ** 2
        dot = np.bincount(shared.comparison, weights=product, minlength=len(self.candidate))
        return np.divide(dot, norms, out=np.zeros_like(norms), where=norms > 0)

    def bleu_counts_of_pairs(self) -> np.ndarray:
        """`bleu_counts` of each candidate with each single reference [comparisons, 10]."""
        matched = [self.matches(order) for order in range(1, ORDERS + 1)]
        totals = self._totals()[self.candidate]
        columns = [*matched, totals, self.lengths[self.candidate], self.reference_lengths]
        return np.column_stack(columns).astype(np.float64)

    @cached_property
    def bleu_counts(self) -> np.ndarray:
        """What BLEU sums over a corpus [M, 10]: clipped matches of orders 1 to 4, n-grams of orders 1 to 4, words,
        and the words of the closest reference; of two equally close ones the shorter."""
        matched = [self._matches_with_any(ngrams, table) for ngrams, table, _ in self._orders]
        theirs = self.reference_lengths
        beyond = theirs.max(initial=0) + 1
        distance = np.abs(theirs - self.lengths[self.candidate])
        closest = np.minimum.reduceat(distance * beyond + theirs, self.first) % beyond
        return np.column_stack([*matched, self._totals(), self.lengths, closest]).astype(np.float64)

    def _totals(self) -> np.ndarray:
        return np.maximum(self.lengths[:, None] - np.arange(ORDERS), 0)

    def _matches_with_any(self, ngrams: _Ngrams, table: NgramTable) -> np.ndarray:
        """Matches of one order, clipped by the most occurrences in one reference of the photo [M]."""
        shared = ngrams.pair >= 0
        matched = np.minimum(ngrams.count[shared], table.most[ngrams.pair[shared]])
        return np.bincount(ngrams.candidate[shared], weights=matched, minlength=len(self._photo))


def compare(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> NgramComparison:
    """One tokenised candidate per photo against the photo's references, whose document frequencies CIDEr-D takes.

    Raises ValueError unless every photo has a candidate and a reference.
    """
    if len(references) != len(candidates) or not all(references):
        raise ValueError("each photo needs one candidate and at least one reference")
    ids: dict[str, int] = {}
    truth, ours = encode(references, ids), encode([candidates], ids)
    tables = ngram_tables(truth, inverse_document_frequencies(truth))
    return NgramComparison(truth, tables, np.arange(len(candidates)), ours.tokens, ours.lengths)

"""Captions beside reference captions, each with each: what the metrics count, on token ids and many at a time.

CIDEr-D, BLEU and ROUGE-L are those of pycocoevalcap's Cider, Bleu (option "closest") and Rouge, with token ids for
words. METEOR is a stand-in: it matches equal words and equal stems, weighs function words less and takes adjacent
matches for one chunk, by the formula of METEOR 1.5. Synonyms, paraphrases and the choice among alignments are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from src.metrics.meteor import MODULE_WEIGHTS
from src.metrics.meteor_proxy import meteor_formula, stems, worth
from src.metrics.ngram_table import NgramTable, Rarity, find, ngram_tables, packed_ngrams, spans
from src.metrics.ngrams import ORDERS, SIGMA

_PAD = 0
_FIRST_CODE = 0x10000  # of the characters that stand for ids: past the surrogates, which are not characters
_STEM = float(MODULE_WEIGHTS[1])


@dataclass(frozen=True)
class Kinds:
    """What METEOR's stand-in knows of the words."""

    stem: np.ndarray
    """The id of the first word with the same stem, int64 [ids]."""
    worth: np.ndarray
    """Weight of a word as content or function word, float64 [ids]."""


def kinds_of(words: Sequence[str]) -> Kinds:
    """Of words by id. What is no word, such as <end>, is a content word and its own stem."""
    first: dict[str, int] = {}
    stem = [first.setdefault(each, i) for i, each in enumerate(stems(words))]
    return Kinds(np.array(stem), worth(words))


@dataclass(frozen=True)
class References:
    """The reference captions of all photos, prepared."""

    firsts: np.ndarray
    """Photo n has the captions firsts[n] to firsts[n + 1] - 1, or none."""
    lengths: np.ndarray
    """Tokens of each caption [captions]."""
    texts: list[str]
    """Each caption with one character per token."""
    tables: list[NgramTable]
    """Of orders 1 to 4."""
    kinds: Kinds | None
    """None: METEOR is not asked for."""
    stemmed: list[NgramTable]
    """Of orders 1 and 2, with stems for words; empty where METEOR is not asked for."""
    possible: np.ndarray
    """Weight of all words of each caption [captions]; empty where METEOR is not asked for."""


def prepare(
    tokens: np.ndarray, starts: np.ndarray, firsts: np.ndarray, rarity: list[Rarity], kinds: Kinds | None
) -> References:
    """References from tokens int [sum] in a row: caption c is tokens[starts[c]:starts[c + 1]].

    kinds: needed for METEOR alone. Raises InputError where an id exceeds 65,535.
    """
    lengths, stemmed, possible = np.diff(starts), [], np.zeros(0)
    tables = ngram_tables(tokens, starts, firsts, rarity)
    if kinds is not None:
        stemmed = ngram_tables(kinds.stem[tokens], starts, firsts, rarity[:2])
        possible = _sums(kinds.worth[tokens], lengths)
    return References(firsts, lengths, _texts(tokens, lengths), tables, kinds, stemmed, possible)


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=values, minlength=len(lengths))


def _texts(tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Captions with one character per token; tokens of all captions in a row, tokens per caption."""
    text = (tokens + _FIRST_CODE).astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum(lengths)
    return [text[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]


@dataclass(frozen=True)
class _Grams:
    """The distinct n-grams of one order in each sample, one entry each, sorted by sample."""

    sample: np.ndarray
    key: np.ndarray
    """Packed n-gram [entries]."""
    count: np.ndarray
    """Occurrences [entries]."""
    rarity: np.ndarray
    """Inverse document frequency [entries]."""
    pair: np.ndarray
    """Where the table has it in the photo's references; -1 where they lack it [entries]."""


@dataclass(frozen=True)
class _Shared:
    """The n-grams of one order that a sample and a reference have in common, one entry for each comparison."""

    entry: np.ndarray
    """Which of the samples' entries."""
    count: np.ndarray
    """Occurrences in the reference."""
    comparison: np.ndarray


class Comparisons:
    """M samples, each beside each reference of its photo, of which there is one at least.

    Comparisons are ordered by sample: `first` [M] is each sample's first one, `several` [M] their number, `sample` and
    `caption` [comparisons] say what is compared, `lengths` [M] and `reference_lengths` [comparisons] how long it is.
    """

    def __init__(self, references: References, photo: np.ndarray, samples: np.ndarray):
        """photo int [M]; samples int [M, T]: token ids, then padding (0)."""
        self._references, self._photo = references, photo
        is_word = samples != _PAD
        self.lengths, self._words = is_word.sum(axis=1), samples[is_word]
        self.several = np.diff(references.firsts)[photo]
        self.first = np.cumsum(self.several) - self.several
        self.sample = np.repeat(np.arange(len(photo)), self.several)
        self.caption = spans(references.firsts[photo], self.several)
        self.reference_lengths = references.lengths[self.caption]

    @cached_property
    def _orders(self) -> list[tuple[_Grams, NgramTable, _Shared]]:
        return self._beside(self._words, self._references.tables)

    def _beside(self, words: np.ndarray, tables: list[NgramTable]) -> list[tuple[_Grams, NgramTable, _Shared]]:
        """Order by order: the samples' n-grams, the references', and what they share. words: of all samples."""
        out = []
        for ngrams, table in zip(packed_ngrams(words, self.lengths), tables, strict=False):
            grams = self._grams(*ngrams, table)
            out.append((grams, table, self._shared(grams, table)))
        return out

    def _grams(self, keys: np.ndarray, sample: np.ndarray, table: NgramTable) -> _Grams:
        keys, number = np.unique(keys, return_inverse=True)
        entries, count = np.unique(sample * len(keys) + number, return_counts=True)
        sample, number = np.divmod(entries, max(len(keys), 1))
        pair = table.find(self._photo[sample], find(table.keys, keys)[number])
        return _Grams(sample, keys[number], count, table.rarity.of(keys)[number], pair)

    def _shared(self, grams: _Grams, table: NgramTable) -> _Shared:
        shared = np.flatnonzero(grams.pair >= 0)
        first = table.first[grams.pair[shared]]
        several = table.first[grams.pair[shared] + 1] - first
        theirs = spans(first, several)
        entry = np.repeat(shared, several)
        return _Shared(entry, table.count[theirs], self.first[grams.sample[entry]] + table.reference[theirs])

    def _total(self, comparison: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sums by comparison [comparisons]."""
        return np.bincount(comparison, weights=weights, minlength=len(self.sample))

    def cider_d(self) -> np.ndarray:
        """CIDEr-D (Vedantam et al. 2015) of each comparison; of several references it is the mean."""
        cosine = sum(self._cosine(*order) for order in self._orders) / ORDERS
        ours, theirs = self.lengths[self.sample], self.reference_lengths
        return 10 * cosine * np.exp(-((ours - theirs) ** 2) / (2 * SIGMA**2))

    def _cosine(self, grams: _Grams, table: NgramTable, shared: _Shared) -> np.ndarray:
        """Clipped cosine of the vectors of one order [comparisons]."""
        squares = np.bincount(grams.sample, weights=(grams.count * grams.rarity) ** 2, minlength=len(self._photo))
        size = np.sqrt(squares)[self.sample] * table.norms[self.caption]
        product = np.minimum(grams.count[shared.entry], shared.count) * shared.count * grams.rarity[shared.entry] ** 2
        dot = self._total(shared.comparison, product)
        return np.divide(dot, size, out=np.zeros_like(size), where=size > 0)

    def bleu(self) -> np.ndarray:
        """What BLEU sums [comparisons, 10], as in `bleu_counts`, each reference being the only one."""
        matched = [self._clipped(grams, shared) for grams, _, shared in self._orders]
        guesses = self._guesses()[self.sample]
        return np.column_stack([*matched, guesses, self.lengths[self.sample], self.reference_lengths]).astype(
            np.float64
        )

    @cached_property
    def bleu_together(self) -> np.ndarray:
        """The same [M, 10] with all references of the photo; of two equally close lengths the shorter counts."""
        matched = [self._clipped_by_most(grams, table) for grams, table, _ in self._orders]
        theirs = self.reference_lengths
        beyond = theirs.max(initial=0) + 1
        distance = np.abs(theirs - self.lengths[self.sample])
        closest = np.minimum.reduceat(distance * beyond + theirs, self.first) % beyond
        return np.column_stack([*matched, self._guesses(), self.lengths, closest]).astype(np.float64)

    def _guesses(self) -> np.ndarray:
        return np.maximum(self.lengths[:, None] - np.arange(ORDERS), 0)

    def _clipped(self, grams: _Grams, shared: _Shared, worth: np.ndarray | None = None) -> np.ndarray:
        """Clipped matches of one order [comparisons], weighed by the worth of each id where it is given."""
        matched = np.minimum(grams.count[shared.entry], shared.count)
        return self._total(shared.comparison, matched if worth is None else matched * worth[grams.key[shared.entry]])

    def _clipped_by_most(self, grams: _Grams, table: NgramTable) -> np.ndarray:
        """Clipped matches of one order with the references together [M]."""
        shared = grams.pair >= 0
        matched = np.minimum(grams.count[shared], table.most[grams.pair[shared]])
        return np.bincount(grams.sample[shared], weights=matched, minlength=len(self._photo))

    def rouge_l(self) -> tuple[np.ndarray, np.ndarray]:
        """ROUGE-L's precision and recall (Lin 2004) of each comparison; of several references each has its best."""
        texts = _texts(self._words, self.lengths)
        ours = [texts[i] for i in self.sample.tolist()]
        theirs = [self._references.texts[i] for i in self.caption.tolist()]
        common = process.cpdist(ours, theirs, scorer=LCSseq.similarity, dtype=np.float64)
        ours, theirs = self.lengths[self.sample], self.reference_lengths
        return common / np.maximum(ours, 1), common / np.maximum(theirs, 1)

    def meteor(self) -> np.ndarray:
        """What METEOR's stand-in sums [comparisons, 5]: see `meteor_of`."""
        kinds = self._references.kinds
        words, pairs = self._beside(kinds.stem[self._words], self._references.stemmed)
        count, adjacent = self._clipped(words[0], words[2]), self._clipped(pairs[0], pairs[2])
        equal = self._clipped(self._orders[0][0], self._orders[0][2], kinds.worth)
        weight = (1 - _STEM) * equal + _STEM * self._clipped(words[0], words[2], kinds.worth)
        ours, theirs = self.lengths[self.sample], self.reference_lengths
        chunks = np.maximum(count - adjacent, np.minimum(count, 1))
        chunks[(chunks == 1) & (count == ours) & (count == theirs)] = 0
        possible = _sums(kinds.worth[self._words], self.lengths)[self.sample]
        return np.column_stack([weight, possible, self._references.possible[self.caption], chunks, count])


def meteor_of(counts: np.ndarray) -> np.ndarray:
    """METEOR's stand-in of counts [..., 5], of one caption or summed over many.

    They are the weight of the matched words, that of all words of the caption and of its reference, chunks, matches.
    """
    return meteor_formula(*np.moveaxis(counts, -1, 0))

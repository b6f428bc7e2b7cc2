"""ROUGE-L, and a stand-in for METEOR, of one sentence given to every photo of a sample.

The stand-in matches equal words and equal stems; what it leaves out are synonyms, paraphrases and the choice among
alignments. It ranks sentences, and METEOR itself then judges the best of them.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from nltk.stem.snowball import EnglishStemmer
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from src.metrics.meteor import ALPHA, BETA, DELTA, GAMMA, MODULE_WEIGHTS, function_words
from src.metrics.ngrams import rouge_f
from src.metrics.reference_tables import repeats

_CELLS = 4_000_000
_STEM_WEIGHT = float(MODULE_WEIGHTS[1])


def stems(words: Iterable[str]) -> list[str]:
    """The stem of each word; METEOR takes words with one stem for a weaker match."""
    stem = EnglishStemmer().stem
    return [stem(word) for word in words]


def worth(words: Iterable[str]) -> np.ndarray:
    """The weight of each word in METEOR, float64 [words]: function words count less than content words."""
    functions = function_words()
    return np.array([1 - DELTA if word in functions else DELTA for word in words])


class Sample:
    """Photos against which constant sentences over a small vocabulary are scored many at a time."""

    def __init__(self, references: list[list[str]], words: list[str]):
        """words: the vocabulary of the sentences."""
        captions = [caption.split() for group in references for caption in group]
        sizes = np.array([len(group) for group in references])
        self.photos, self.starts = len(sizes), np.cumsum(sizes) - sizes
        self.owner = np.repeat(np.arange(self.photos), sizes)
        number = {word: i for i, word in enumerate(words)}
        self.worth = worth(words)
        every = sorted({word for caption in captions for word in caption})
        known = dict(zip(every, worth(every).tolist(), strict=True))
        self.possible = np.array([sum(known[word] for word in caption) for caption in captions])
        self.lengths = np.array([len(caption) for caption in captions], dtype=np.float64)
        self._codes = ["".join(_code(number[word]) for word in caption if word in number) for caption in captions]
        self._match(captions, number)
        self._adjacency(captions, number)

    def _match(self, captions: list[list[str]], number: dict[str, int]) -> None:
        """Weights [2 occurrences, words, captions] of each word's match in each caption."""
        every = sorted({word for caption in captions for word in caption} | set(number))
        stem = dict(zip(every, stems(every), strict=True))
        family: dict[str, list[int]] = {}
        for word, i in number.items():
            family.setdefault(stem[word], []).append(i)
        weight = np.zeros((2, len(number), len(captions)), dtype=np.float32)
        for i, caption in enumerate(captions):
            for word in set(caption):
                for relative in family.get(stem[word], ()):
                    weight[0, relative, i] = max(weight[0, relative, i], _STEM_WEIGHT)
                if word in number:
                    weight[: min(caption.count(word), 2), number[word], i] = 1.0
        self.matched = (weight > 0).astype(np.float32)
        self.weight = weight * self.worth[None, :, None].astype(np.float32)

    def _adjacency(self, captions: list[list[str]], number: dict[str, int]) -> None:
        """Which words follow each other in which caption: row numbers [words, words], rows [pairs, captions]."""
        pairs = [
            {(number[a], number[b]) for a, b in pairwise(caption) if a in number and b in number}
            for caption in captions
        ]
        rows = {pair: i + 1 for i, pair in enumerate(sorted(set().union(*pairs)))}
        self.pair_row = np.zeros((len(number), len(number)), dtype=np.int64)
        for pair, row in rows.items():
            self.pair_row[pair] = row
        self.adjacent = np.zeros((len(rows) + 1, len(captions)), dtype=np.float32)
        for i, found in enumerate(pairs):
            self.adjacent[[rows[pair] for pair in found], i] = 1

    def score(self, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """METEOR (stand-in) and ROUGE-L [sentences] of word numbers [sentences, length]."""
        block = max(1, _CELLS // len(self.lengths))
        parts = [self._score(sentences[i : i + block]) for i in range(0, len(sentences), block)]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _score(self, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = repeats(sentences)
        weight = np.zeros((len(sentences), len(self.lengths)), dtype=np.float32)
        count, adjacent = np.zeros_like(weight), np.zeros_like(weight)
        for i in range(sentences.shape[1]):
            usable = (seen[:, i] < 2).astype(np.float32)[:, None]
            at = np.minimum(seen[:, i], 1), sentences[:, i]
            weight += self.weight[at] * usable
            count += self.matched[at] * usable
            if i:
                adjacent += self.adjacent[self.pair_row[sentences[:, i - 1], sentences[:, i]]]
        return self._meteor(sentences, weight, count, adjacent), self._rouge(sentences)

    def _meteor(self, sentences, weight, count, adjacent) -> np.ndarray:
        count = np.minimum(count, self.lengths)
        chunks = np.maximum(count - adjacent, np.minimum(count, 1))
        possible = self.worth[sentences].sum(axis=1)[:, None]
        single = meteor_formula(weight, possible, self.possible, chunks, count)
        best = single == np.maximum.reduceat(single, self.starts, axis=1)[:, self.owner]
        share = best / np.add.reduceat(best, self.starts, axis=1)[:, self.owner]
        total = [np.einsum("sc,sc->s", share, np.broadcast_to(part, share.shape)) for part in (weight, chunks, count)]
        return meteor_formula(total[0], possible[:, 0] * self.photos, share @ self.possible, total[1], total[2])

    def _rouge(self, sentences: np.ndarray) -> np.ndarray:
        texts = ["".join(_code(word) for word in sentence) for sentence in sentences]
        common = process.cdist(texts, self._codes, scorer=LCSseq.similarity, dtype=np.uint8).astype(np.float32)
        precision = np.maximum.reduceat(common, self.starts, axis=1) / sentences.shape[1]
        recall = np.maximum.reduceat(common / np.maximum(self.lengths, 1), self.starts, axis=1)
        return rouge_f(precision, recall).mean(axis=1)


def _code(word: int) -> str:
    return chr(0x10000 + word)


def meteor_formula(weight, candidate, reference, chunks, count) -> np.ndarray:
    """METEOR of matched weight, possible weight of candidate and reference, chunks and matched words (arrays)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = 1 / ((1 - ALPHA) * candidate / weight + ALPHA * reference / weight)
        return np.nan_to_num(mean * (1 - GAMMA * (chunks / count) ** BETA))

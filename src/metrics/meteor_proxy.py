"""A proxy for METEOR, computed without its Java program: METEOR 1.5's formula on matches of equal words and stems.

Synonyms, paraphrases and the choice among alignments are left out: adjacent matches are taken for one chunk. The proxy
ranks captions, a thousand times as fast as METEOR.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from src.metrics.meteor import ALPHA, BETA, DELTA, GAMMA, MODULE_WEIGHTS, function_words

STEM_WEIGHT = float(MODULE_WEIGHTS[1])
"""What a match of stems counts beside a match of words, which counts 1."""


def stems(words: Iterable[str]) -> list[str]:
    """The stem of each word."""
    return list(map(_stem, words))


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import EnglishStemmer  # takes seconds, which training need not wait for

    return EnglishStemmer()


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return _stemmer().stem(word)


def word_weights(words: Iterable[str]) -> np.ndarray:
    """METEOR's weight of each word, float64 [words]: function words count less than content words."""
    functions = function_words()
    return np.array([1 - DELTA if word in functions else DELTA for word in words])


@dataclass(frozen=True)
class WordTable:
    """What the proxy needs to know of the words, by token id."""

    stem: np.ndarray
    """The id of the first word with the same stem, int64 [ids]."""
    weight: np.ndarray
    """Weight as content or function word, float64 [ids]."""


def word_table(words: Sequence[str]) -> WordTable:
    """Of words by id. A special token such as <end> is a content word and its own stem."""
    first: dict[str, int] = {}
    return WordTable(np.array([first.setdefault(stem, i) for i, stem in enumerate(stems(words))]), word_weights(words))


def proxy_score(counts: np.ndarray) -> np.ndarray:
    """The proxy of counts [..., 5], of one caption or summed over many.

    They are the weight of the matched words, that of all words of the caption and of its reference, chunks, matches.
    """
    return proxy_formula(*np.moveaxis(counts, -1, 0))


def proxy_formula(
    weight: np.ndarray, candidate: np.ndarray, reference: np.ndarray, chunks: np.ndarray, matches: np.ndarray
) -> np.ndarray:
    """METEOR of matched weight, weight of all words of candidate and reference, chunks, and matched words (arrays)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = 1 / ((1 - ALPHA) * candidate / weight + ALPHA * reference / weight)
        return np.nan_to_num(mean * (1 - GAMMA * (chunks / matches) ** BETA))

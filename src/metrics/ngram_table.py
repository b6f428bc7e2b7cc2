"""The n-grams of all reference captions as sorted arrays, in which those of a sample are looked up by bisection.

An n-gram of up to four token ids below 65,536 is one uint64, 16 bits an id.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.base.errors import InputError
from src.metrics.ngrams import ORDERS

LARGEST_ID = 2**16 - 1


def packed_ngrams(tokens: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Order by order (1 to 4 tokens), packed n-grams uint64 [places] and the caption of each int64 [places].

    tokens [words]: ids of all captions in a row. lengths [captions]: tokens of each. Raises InputError where an id
    exceeds 65,535.
    """
    if tokens.max(initial=0) > LARGEST_ID:
        raise InputError(
            f"captions are compared by token ids up to {LARGEST_ID}, but one holds {tokens.max()}: "
            f"set vocabulary.maximum_size={LARGEST_ID - 3} or less"
        )
    words = tokens.astype(np.uint64)
    keys, start, caption = words, np.arange(len(tokens)), np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)
    yield keys, caption
    for order in range(1, ORDERS):
        longer = start + order < ends[caption]
        start, caption = start[longer], caption[longer]
        keys = keys[longer] << np.uint64(16) | words[start + order]
        yield keys, caption


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key stands among sorted, distinct keys; -1 where it is absent."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def spans(first: np.ndarray, several: np.ndarray) -> np.ndarray:
    """In a row, several[i] whole numbers from first[i] on, for each i."""
    return np.arange(several.sum()) + np.repeat(first - np.cumsum(several) + several, several)


@dataclass(frozen=True)
class Rarity:
    """CIDEr's inverse document frequency of the n-grams of one order. A document is a photo with its references."""

    keys: np.ndarray
    """Packed n-grams that stand in some document, sorted, uint64 [n-grams]."""
    values: np.ndarray
    """float64 [n-grams + 1]; the last is that of n-grams that stand in none."""

    def of(self, keys: np.ndarray) -> np.ndarray:
        """The rarity of each key."""
        return self.values[find(self.keys, keys)]


def rarities(tokens: np.ndarray, starts: np.ndarray, firsts: np.ndarray, counted: np.ndarray) -> list[Rarity]:
    """Of orders 1 to 4; arrays as in `Reward`. counted: the photos that are documents, where they have references."""
    documents = np.zeros(len(firsts) - 1, dtype=bool)
    documents[counted] = True
    documents &= np.diff(firsts) > 0
    photo = np.repeat(np.arange(len(documents)), np.diff(firsts))
    total = max(int(documents.sum()), 1)
    return [_rarity(*ngrams, photo, documents, total) for ngrams in packed_ngrams(tokens, np.diff(starts))]


def _rarity(keys: np.ndarray, caption: np.ndarray, photo: np.ndarray, documents: np.ndarray, total: int) -> Rarity:
    owner = photo[caption]
    counted = documents[owner]
    keys, gram = np.unique(keys[counted], return_inverse=True)
    pairs = np.unique(owner[counted] * max(len(keys), 1) + gram)
    frequency = np.bincount(pairs % max(len(keys), 1), minlength=len(keys))
    return Rarity(keys, np.log(total) - np.log(np.append(frequency, 1)))


@dataclass(frozen=True)
class NgramTable:
    """Which n-gram of one order stands how often in which reference. A pair is a photo with an n-gram of its own."""

    keys: np.ndarray
    """Packed n-grams, sorted, uint64 [n-grams]."""
    rarity: Rarity
    """Of these n-grams and all others."""
    pairs: np.ndarray
    """Photo times n-grams plus number of the n-gram, sorted, int64 [pairs]."""
    most: np.ndarray
    """Most occurrences of the n-gram in one of the photo's references, int32 [pairs]."""
    first: np.ndarray
    """The entries of pair i are first[i] to first[i + 1] - 1: int32 [pairs + 1]."""
    reference: np.ndarray
    """Which of the photo's references has the n-gram, from 0 on, int32 [entries]."""
    count: np.ndarray
    """How often it stands there, int32 [entries]."""
    norms: np.ndarray
    """Length of each reference's vector, float64 [captions]."""

    def find(self, photo: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """The pair of each photo and number of an n-gram (-1: none); -1 where the photo's references lack it."""
        photos = np.unique(photo)
        first, end = np.searchsorted(self.pairs, np.stack([photos, photos + 1]) * len(self.keys))
        near = spans(first, end - first)  # few enough for the processor's cache, which all pairs are not
        at = find(self.pairs[near], np.where(gram < 0, -1, photo * len(self.keys) + gram))
        return np.append(near, -1)[at]


def ngram_tables(tokens: np.ndarray, starts: np.ndarray, firsts: np.ndarray, rarity: list[Rarity]) -> list[NgramTable]:
    """The tables of as many orders as `rarity` has; arrays as in `Reward`."""
    ngrams = packed_ngrams(tokens, np.diff(starts))
    return [_table(*each, firsts, rare) for each, rare in zip(ngrams, rarity, strict=False)]


def _table(keys: np.ndarray, caption: np.ndarray, firsts: np.ndarray, rarity: Rarity) -> NgramTable:
    """From n-grams and their captions."""
    sizes = np.diff(firsts)
    largest = int(sizes.max(initial=1))
    keys, gram = np.unique(keys, return_inverse=True)
    photo = np.repeat(np.arange(len(sizes)), sizes)[caption]
    entries = (photo * len(keys) + gram) * largest + caption - firsts[photo]
    del caption, photo, gram  # large, and of no more use
    entries, count = np.unique(entries, return_counts=True)
    entries, reference = np.divmod(entries, largest)
    first = np.flatnonzero(np.diff(entries, prepend=-1))
    pairs = entries[first]
    photo, gram = np.divmod(pairs, max(len(keys), 1))
    several = np.diff(first, append=len(entries))
    squares = (count * np.repeat(rarity.of(keys)[gram], several)) ** 2
    norms = np.bincount(np.repeat(firsts[photo], several) + reference, weights=squares, minlength=firsts[-1])
    return NgramTable(
        keys=keys,
        rarity=rarity,
        pairs=pairs,
        most=(np.maximum.reduceat(count, first) if len(first) else count).astype(np.int32),
        first=np.append(first, len(entries)).astype(np.int32),
        reference=reference.astype(np.int32),
        count=count.astype(np.int32),
        norms=np.sqrt(norms),
    )

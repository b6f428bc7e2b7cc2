"""n-grams of captions on token ids: packed into integers, counted by reference, looked up by bisection.

An n-gram of one to four token ids up to 65,535 is one uint64, 16 bits an id. Id 0 is padding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src.base.errors import InputError

ORDERS = 4
"""n-grams of 1 to 4 words."""
LARGEST_ID = 2**16 - 1
_FIRST_CODE = 0x10000  # of the characters that stand for ids: beyond the surrogates, which are not characters


@dataclass(frozen=True)
class CaptionTokens:
    """The captions of all photos in a row."""

    tokens: np.ndarray
    """Token ids, int [tokens]."""
    starts: np.ndarray
    """Caption c is tokens[starts[c]:starts[c + 1]]: int [captions + 1]."""
    firsts: np.ndarray
    """Photo n has the captions firsts[n] to firsts[n + 1] - 1, or none: int [photos + 1]."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each caption [captions]."""
        return np.diff(self.starts)

    @property
    def photo(self) -> np.ndarray:
        """The photo of each caption [captions]."""
        sizes = np.diff(self.firsts)
        return np.repeat(np.arange(len(sizes)), sizes)

    @property
    def photos(self) -> int:
        return len(self.firsts) - 1


def encode(groups: Iterable[Sequence[str]], ids: dict[str, int]) -> CaptionTokens:
    """Tokenised captions by photo as ids from 1 on; words that `ids` lacks are added to it.

    Words whose id would exceed LARGEST_ID count as one: give the frequent words their ids first where so many occur.
    """
    captions = [[caption.split() for caption in group] for group in groups]
    flat = [words for group in captions for words in group]
    tokens = np.array([ids.setdefault(word, len(ids) + 1) for words in flat for word in words], dtype=np.int64)
    starts = np.cumsum([0, *map(len, flat)])
    return CaptionTokens(np.minimum(tokens, LARGEST_ID), starts, np.cumsum([0, *map(len, captions)]))


def as_texts(tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Captions with one character per token; tokens of all captions in a row, tokens per caption."""
    text = (tokens + _FIRST_CODE).astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum(lengths)
    return [text[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]


def sums_by_caption(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums [captions] of the values of all tokens in a row."""
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=values, minlength=len(lengths))


def packed_ngrams(tokens: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each order from 1 to 4: packed n-grams uint64 [occurrences], and the caption of each, int64 [occurrences].

    tokens [tokens]: ids of all captions in a row. lengths [captions]: tokens of each. Raises InputError where an id
    exceeds LARGEST_ID.
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
    """The index of each wanted key among sorted, distinct keys; -1 where it is absent."""
    if not len(keys):
        return np.full(len(wanted), -1)
    index = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[index] == wanted, index, -1)


def ranges(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """In a row, for each i, the sizes[i] integers from first[i] on."""
    return np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)


@dataclass(frozen=True)
class InverseDocumentFrequency:
    """CIDEr's inverse document frequency of the n-grams of one order. A document is a photo with its references."""

    keys: np.ndarray
    """Packed n-grams that occur in a document, sorted, uint64 [n-grams]."""
    values: np.ndarray
    """log(documents / documents with the n-gram), float64 [n-grams + 1]; the last is that of n-grams in none."""

    def of(self, keys: np.ndarray) -> np.ndarray:
        """The value of each packed n-gram."""
        return self.values[find(self.keys, keys)]


def inverse_document_frequencies(
    captions: CaptionTokens, documents: np.ndarray | None = None
) -> list[InverseDocumentFrequency]:
    """Of orders 1 to 4. documents: indices of the photos that count as documents if they have captions; None: all."""
    counted = np.diff(captions.firsts) > 0
    if documents is not None:
        counted &= np.isin(np.arange(captions.photos), documents)
    photo, total = captions.photo, max(int(counted.sum()), 1)
    out = []
    for keys, caption in packed_ngrams(captions.tokens, captions.lengths):
        owner = photo[caption]
        inside = counted[owner]
        keys, ngram = np.unique(keys[inside], return_inverse=True)
        pairs = np.unique(owner[inside] * max(len(keys), 1) + ngram)
        frequency = np.bincount(pairs % max(len(keys), 1), minlength=len(keys))
        out.append(InverseDocumentFrequency(keys, np.log(total) - np.log(np.append(frequency, 1))))
    return out


@dataclass(frozen=True)
class NgramTable:
    """How often each n-gram of one order occurs in each reference. A pair is a photo with an n-gram that it has."""

    keys: np.ndarray
    """Packed n-grams, sorted, uint64 [n-grams]."""
    idf: InverseDocumentFrequency
    """Of these n-grams and all others."""
    pairs: np.ndarray
    """Photo times the number of n-grams, plus the n-gram's index; sorted, int64 [pairs]."""
    most: np.ndarray
    """Most occurrences of the n-gram in one of the photo's references, int32 [pairs]."""
    first: np.ndarray
    """The entries of pair i are first[i] to first[i + 1] - 1: int32 [pairs + 1]."""
    reference: np.ndarray
    """Which of the photo's references has the n-gram, from 0 on, int32 [entries]."""
    count: np.ndarray
    """How often it occurs there, int32 [entries]."""
    norms: np.ndarray
    """Norm of each reference's tf-idf vector, float64 [captions]."""

    def entries(self, captions: CaptionTokens) -> tuple[np.ndarray, np.ndarray]:
        """The index of the n-gram and the caption of each entry [entries]. captions: those of the table."""
        photo, ngram = np.divmod(self.pairs, max(len(self.keys), 1))
        sizes = np.diff(self.first)
        return np.repeat(ngram, sizes), np.repeat(captions.firsts[photo], sizes) + self.reference

    def find(self, photo: np.ndarray, ngram: np.ndarray) -> np.ndarray:
        """The pair of each photo and index of an n-gram (-1: none); -1 where the photo's references lack it."""
        photos = np.unique(photo)
        first, end = np.searchsorted(self.pairs, np.stack([photos, photos + 1]) * len(self.keys))
        nearby = ranges(first, end - first)  # few enough for the processor's cache, unlike all pairs
        index = find(self.pairs[nearby], np.where(ngram < 0, -1, photo * len(self.keys) + ngram))
        return np.append(nearby, -1)[index]


def ngram_tables(captions: CaptionTokens, idf: Sequence[InverseDocumentFrequency]) -> list[NgramTable]:
    """The tables of as many orders as `idf` has."""
    ngrams = packed_ngrams(captions.tokens, captions.lengths)
    return [_table(*occurrences, captions, of_order) for occurrences, of_order in zip(ngrams, idf, strict=False)]


def _table(keys: np.ndarray, caption: np.ndarray, captions: CaptionTokens, idf: InverseDocumentFrequency) -> NgramTable:
    firsts = captions.firsts
    most_references = max(int(np.diff(firsts).max(initial=1)), 1)
    keys, ngram = np.unique(keys, return_inverse=True)
    photo = captions.photo[caption]
    entries = (photo * len(keys) + ngram) * most_references + caption - firsts[photo]
    del caption, photo, ngram  # large: several hundred MB for COCO's captions
    entries, count = np.unique(entries, return_counts=True)
    entries, reference = np.divmod(entries, most_references)
    first = np.flatnonzero(np.diff(entries, prepend=-1))
    pairs = entries[first]
    photo, ngram = np.divmod(pairs, max(len(keys), 1))
    sizes = np.diff(first, append=len(entries))
    squares = (count * np.repeat(idf.of(keys)[ngram], sizes)) ** 2
    norms = np.bincount(np.repeat(firsts[photo], sizes) + reference, weights=squares, minlength=firsts[-1])
    return NgramTable(
        keys=keys,
        idf=idf,
        pairs=pairs,
        most=(np.maximum.reduceat(count, first) if len(first) else count).astype(np.int32),
        first=np.append(first, len(entries)).astype(np.int32),
        reference=reference.astype(np.int32),
        count=count.astype(np.int32),
        norms=np.sqrt(norms),
    )

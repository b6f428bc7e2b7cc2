"""n-grams of captions counted with numpy, and the metrics that are made of them: BLEU, CIDEr-D; and ROUGE-L.

All three equal pycocoevalcap's Bleu (option "closest"), Cider (which is CIDEr-D) and Rouge on tokenised captions.
"""

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq

ORDERS = 4
"""n-grams of 1 to 4 words."""
SIGMA = 6.0
"""Width of CIDEr-D's length penalty, in words."""
ROUGE_BETA = 1.2
"""Weight of recall in ROUGE-L's F-measure."""


@dataclass(frozen=True)
class Counts:
    """How often each n-gram stands in each caption: one entry per caption and n-gram, sorted by both."""

    caption: np.ndarray
    """Index of the caption [entries]."""
    gram: np.ndarray
    """Number of the n-gram [entries]; n-grams of all orders share one numbering."""
    count: np.ndarray
    """Occurrences [entries]."""
    order: np.ndarray
    """Words in an n-gram, less one [n-grams]."""
    lengths: np.ndarray
    """Words of each caption [captions]."""


def encode(captions: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Word numbers of all captions in a row [words], words per caption [captions], and the words by number."""
    numbers: dict[str, int] = {}
    lists = [caption.split() for caption in captions]
    flat = [numbers.setdefault(word, len(numbers)) for words in lists for word in words]
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return np.array(flat, dtype=np.int64), lengths, list(numbers)


@dataclass(frozen=True)
class Places:
    """The n-grams of one order, where they stand in a row of words."""

    start: np.ndarray
    """Where each occurrence begins [places]."""
    gram: np.ndarray
    """Number of its n-gram within this order [places]."""
    keys: np.ndarray
    """Sorted [n-grams]: number of the n-gram without its last word, times the vocabulary, plus that word."""


def places(words: np.ndarray, lengths: np.ndarray, vocabulary: int) -> list[Places]:
    """n-grams of order 1..4 that lie within captions; words [words] in a row, words per caption [captions]."""
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
    found = [Places(np.arange(len(words)), words, np.arange(vocabulary))]
    for order in range(1, ORDERS):
        shorter = found[-1]
        longer = left[shorter.start] > order
        start = shorter.start[longer]
        keys, gram = np.unique(shorter.gram[longer] * vocabulary + words[start + order], return_inverse=True)
        found.append(Places(start, gram, keys))
    return found


def count_ngrams(captions: list[str]) -> Counts:
    """Count the n-grams of tokenised captions."""
    words, lengths, vocabulary = encode(captions)
    owner = np.repeat(np.arange(len(captions)), lengths)
    orders = places(words, lengths, len(vocabulary))
    sizes = [len(order.keys) for order in orders]
    first = np.cumsum([0, *sizes])
    total = int(first[-1])
    keys = np.concatenate([owner[at.start] * total + at.gram + first[k] for k, at in enumerate(orders)])
    keys, count = np.unique(keys, return_counts=True)
    caption, gram = np.divmod(keys, max(total, 1))
    return Counts(caption, gram, count, np.repeat(np.arange(ORDERS), sizes), lengths)


@dataclass(frozen=True)
class Comparison:
    """One candidate per photo beside its references, as n-gram counts under one numbering."""

    counts: Counts
    """Of all references, photo by photo, and then of all candidates."""
    photo: np.ndarray
    """The photo of each of these captions."""
    photos: int
    """Number of photos, which is the number of candidates."""

    @property
    def is_reference(self) -> np.ndarray:
        """Which entries of `counts` belong to references."""
        return self.counts.caption < len(self.photo) - self.photos

    def key(self, entries: np.ndarray) -> np.ndarray:
        """One number per (photo, n-gram) of the chosen entries."""
        return self.photo[self.counts.caption[entries]] * len(self.counts.order) + self.counts.gram[entries]


def compare(references: list[list[str]], candidates: list[str]) -> Comparison:
    """Count both sides. Every photo needs at least one reference."""
    sizes = [len(group) for group in references]
    if len(sizes) != len(candidates) or min(sizes, default=0) == 0:
        raise ValueError("each photo needs one candidate and at least one reference")
    captions = [caption for group in references for caption in group] + list(candidates)
    photo = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.arange(len(sizes))])
    return Comparison(count_ngrams(captions), photo, len(sizes))


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is absent; keys sorted and distinct."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=values.dtype)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def largest(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and the largest value of each."""
    sort = np.argsort(keys, kind="stable")
    keys = keys[sort]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    return keys[starts], np.maximum.reduceat(values[sort], starts) if len(starts) else values


def bleu_counts(both: Comparison) -> np.ndarray:
    """What BLEU sums over photos [photos, 10]: clipped matches and n-grams for orders 1..4, words, closest reference.

    Papineni et al. 2002; of two equally close reference lengths the shorter counts.
    """
    counts, reference = both.counts, both.is_reference
    keys, most = largest(both.key(reference), counts.count[reference])
    matched = np.minimum(lookup(keys, most, both.key(~reference)), counts.count[~reference])
    cell = both.photo[counts.caption[~reference]] * ORDERS + counts.order[counts.gram[~reference]]
    correct = np.bincount(cell, weights=matched, minlength=both.photos * ORDERS).reshape(-1, ORDERS)
    words = counts.lengths[-both.photos :]
    guesses = np.maximum(words[:, None] - np.arange(ORDERS), 0)
    lengths, owner = counts.lengths[: -both.photos], both.photo[: -both.photos]
    best = np.lexsort((lengths, np.abs(lengths - words[owner]), owner))
    closest = lengths[best[np.searchsorted(owner, np.arange(both.photos))]]
    return np.column_stack([correct, guesses, words, closest]).astype(np.float64)


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 [..., 4] of summed counts [..., 10]."""
    small, tiny = 1e-9, 1e-15
    precision = (sums[..., :ORDERS] + tiny) / (sums[..., ORDERS : 2 * ORDERS] + small)
    score = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[..., -2:-1] + tiny) / (sums[..., -1:] + small)
    return score * np.exp(np.minimum(1 - 1 / ratio, 0))


def document_frequency(both: Comparison) -> np.ndarray:
    """In how many photos' references each n-gram stands [n-grams]."""
    distinct = np.unique(both.key(both.is_reference))
    return np.bincount(distinct % max(len(both.counts.order), 1), minlength=len(both.counts.order))


def cider_d(both: Comparison) -> np.ndarray:
    """CIDEr-D [photos] (Vedantam et al. 2015), document frequencies from the references of these photos."""
    counts, reference = both.counts, both.is_reference
    rarity = np.log(both.photos) - np.log(np.maximum(document_frequency(both), 1))
    weight = counts.count * rarity[counts.gram]
    cell = counts.caption * ORDERS + counts.order[counts.gram]
    norms = np.sqrt(np.bincount(cell, weights=weight**2, minlength=len(both.photo) * ORDERS)).reshape(-1, ORDERS)
    ours = lookup(both.key(~reference), weight[~reference], both.key(reference))
    product = np.minimum(ours, weight[reference]) * weight[reference]
    caption = np.arange(len(both.photo) - both.photos)
    dot = np.bincount(cell[reference], weights=product, minlength=len(caption) * ORDERS).reshape(-1, ORDERS)
    owner = both.photo[caption]
    candidate = len(caption) + owner
    size = norms[caption] * norms[candidate]
    cosine = np.divide(dot, size, out=np.zeros_like(dot), where=size > 0)
    bigrams = np.maximum(counts.lengths - 1, 0)
    penalty = np.exp(-((bigrams[candidate] - bigrams[caption]) ** 2) / (2 * SIGMA**2))
    per_photo = np.bincount(owner, weights=cosine.mean(axis=1) * penalty, minlength=both.photos)
    return 10 * per_photo / np.bincount(owner, minlength=both.photos)


def rouge_l(references: list[list[str]], candidates: list[str]) -> np.ndarray:
    """ROUGE-L [photos] (Lin 2004): F-measure of the best precision and best recall over a photo's references."""
    return np.array([_rouge(group, candidate) for group, candidate in zip(references, candidates, strict=True)])


def _rouge(references: list[str], candidate: str) -> float:
    words = candidate.split(" ")
    precision = recall = 0.0
    for reference in references:
        other = reference.split(" ")
        common = LCSseq.similarity(words, other)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(other))
    return float(rouge_f(precision, recall))


def rouge_f(precision, recall):
    """ROUGE-L's F-measure of numbers or arrays; 0 where both are."""
    down = np.asarray(recall + ROUGE_BETA**2 * precision, dtype=np.float64)
    return np.divide((1 + ROUGE_BETA**2) * precision * recall, down, out=np.zeros_like(down), where=down > 0)

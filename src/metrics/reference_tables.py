"""BLEU and CIDEr-D of one sentence given to every photo, from statistics of all references gathered once.

Both are sums over the sentence's n-grams of numbers that depend on the references alone, so that thousands of
sentences are scored exactly in the time that one takes otherwise.
"""

from dataclasses import dataclass

import numpy as np

from src.metrics.ngrams import ORDERS, SIGMA, Places, bleu_scores, encode, lookup, places

REPEATS = 3
"""Occurrences of one n-gram in a sentence beyond this many match nothing."""


@dataclass(frozen=True)
class OrderTable:
    """The n-grams of one order that consist of vocabulary words, and what each is worth."""

    keys: np.ndarray
    """As in `Places`, over the vocabulary."""
    photos: np.ndarray
    """[REPEATS, n-grams]: photos with a reference in which the n-gram stands at least that often."""
    rarity: np.ndarray
    """[n-grams]: CIDEr's inverse document frequency."""
    caption: np.ndarray
    """[entries]: caption of each (caption, n-gram) pair."""
    gram: np.ndarray
    """[entries]: its n-gram."""
    count: np.ndarray
    """[entries]: its occurrences."""
    weight: np.ndarray
    """[entries]: its part of CIDEr-D's product, before the length penalty."""


class ReferenceTables:
    """BLEU and CIDEr-D of constant sentences against the tokenised references of all photos.

    Sentences are made of the `vocabulary` words that stand in most photos; `words` has them by number.
    """

    def __init__(self, references: list[list[str]], vocabulary: int):
        sizes = np.array([len(group) for group in references])
        flat, self.lengths, words = encode([caption for group in references for caption in group])
        self.photos, self._owner = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
        self._share = 1.0 / sizes[self._owner] / self.photos
        self._caption = np.repeat(np.arange(len(self.lengths)), self.lengths)
        first, *others = places(flat, self.lengths, len(words))
        spread = np.bincount(np.unique(self._owner[self._caption] * len(words) + flat) % len(words))
        alphabet = np.empty(len(words), dtype=np.int64)
        alphabet[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
        kept = np.sort(np.lexsort((alphabet, -spread))[:vocabulary])
        self.words = [words[i] for i in kept]
        local = np.full(len(words), -1)
        local[kept] = np.arange(len(kept))
        self.orders = [self._table(first, local, np.arange(len(kept)))]
        inner = local
        for order in others:
            shorter, last = inner[order.keys // len(words)], local[order.keys % len(words)]
            inside = (shorter >= 0) & (last >= 0)
            inner = np.where(inside, np.cumsum(inside) - 1, -1)
            self.orders.append(self._table(order, inner, (shorter * len(kept) + last)[inside]))
        self._by_length: dict[int, tuple[float, list[np.ndarray]]] = {}

    def _table(self, order: Places, inner: np.ndarray, keys: np.ndarray) -> OrderTable:
        """inner [n-grams]: the number among n-grams of vocabulary words, or -1; keys: theirs."""
        size = max(len(order.keys), 1)
        pairs, count = np.unique(self._caption[order.start] * size + order.gram, return_counts=True)
        caption, gram = np.divmod(pairs, size)
        photos = np.zeros((REPEATS, size))
        for times in range(1, REPEATS + 1):
            distinct = np.unique(self._owner[caption[count >= times]] * size + gram[count >= times])
            photos[times - 1] = np.bincount(distinct % size, minlength=size)
        rarity = np.log(self.photos) - np.log(np.maximum(photos[0], 1))
        norm = np.sqrt(np.bincount(caption, weights=(count * rarity[gram]) ** 2, minlength=len(self.lengths)))
        weight = np.divide(count * rarity[gram] ** 2, norm[caption], out=np.zeros(len(gram)), where=norm[caption] > 0)
        weight *= self._share[caption]
        kept, inside = inner[: len(order.keys)] >= 0, inner[gram] >= 0
        return OrderTable(
            keys,
            photos[:, : len(order.keys)][:, kept],
            rarity[: len(order.keys)][kept],
            caption[inside],
            inner[gram[inside]],
            count[inside],
            weight[inside],
        )

    def _of_length(self, length: int) -> tuple[float, list[np.ndarray]]:
        """Sum of the closest reference lengths, and CIDEr-D's products [REPEATS, n-grams] by order."""
        if length not in self._by_length:
            best = np.lexsort((self.lengths, np.abs(self.lengths - length), self._owner))
            first = best[np.searchsorted(self._owner, np.arange(self.photos))]
            bigrams = np.maximum(self.lengths - 1, 0) - max(length - 1, 0)
            penalty = np.exp(-(bigrams**2) / (2 * SIGMA**2))
            products = [
                np.stack([_products(table, penalty, times) for times in range(1, REPEATS + 1)]) for table in self.orders
            ]
            self._by_length[length] = float(self.lengths[first].sum()), products
        return self._by_length[length]

    def score(self, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """BLEU-1..4 [sentences, 4] and CIDEr-D [sentences] of word numbers [sentences, length]."""
        total, length = sentences.shape
        closest, products = self._of_length(length)
        sums = np.zeros((total, 2 * ORDERS + 2))
        cider = np.zeros(total)
        gram = sentences
        for order, table in enumerate(self.orders[:length]):
            if order:
                gram = self._longer(table, gram[:, :-1], sentences[:, order:])
            sums[:, ORDERS + order] = self.photos * (length - order)
            if not len(table.keys):
                continue
            seen = np.minimum(repeats(gram), REPEATS)
            known = (gram >= 0) & (seen < REPEATS)
            safe, times = np.where(known, gram, 0), np.where(known, seen, 0)
            rarity = np.where(gram >= 0, table.rarity[np.maximum(gram, 0)], np.log(self.photos))
            norm = np.sqrt(((2 * seen + 1) * rarity**2).sum(axis=1))
            product = (products[order][times, safe] * known).sum(axis=1)
            cider += np.divide(product, norm, out=np.zeros(total), where=norm > 0)
            sums[:, order] = (table.photos[times, safe] * known).sum(axis=1)
        sums[:, -2], sums[:, -1] = self.photos * length, closest
        return bleu_scores(sums), 10 * cider / ORDERS

    def _longer(self, table: OrderTable, gram: np.ndarray, word: np.ndarray) -> np.ndarray:
        wanted = np.where(gram >= 0, gram * len(self.words) + word, -1)
        return lookup(table.keys, np.arange(1, len(table.keys) + 1), wanted.ravel()).reshape(wanted.shape) - 1


def _products(table: OrderTable, penalty: np.ndarray, times: int) -> np.ndarray:
    enough = table.count >= times
    weights = table.weight[enough] * penalty[table.caption[enough]]
    return np.bincount(table.gram[enough], weights=weights, minlength=len(table.keys))


def repeats(gram: np.ndarray) -> np.ndarray:
    """How often each n-gram stood earlier in its sentence [sentences, places]; 0 for unknown ones (negative)."""
    seen = np.zeros(gram.shape, dtype=np.int64)
    for shift in range(1, gram.shape[1]):
        seen[:, shift:] += (gram[:, shift:] == gram[:, :-shift]) & (gram[:, shift:] >= 0)
    return seen

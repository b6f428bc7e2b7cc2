"""Scores of constant sentences: one sentence given to every photo, thousands of sentences at a time.

BLEU and CIDEr-D of a constant sentence are sums over its n-grams of numbers that depend on the references alone, and
METEOR's proxy takes its counts from tables of words by caption. Gathered once, these score a sentence some 25 times as
fast as `Comparisons` with every photo would (python -m tests.benchmarks constant).
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from src.metrics.bleu_cider import bleu_scores, length_penalty
from src.metrics.meteor_proxy import STEM_WEIGHT, WordTable, proxy_formula, word_table
from src.metrics.ngrams import (
    ORDERS,
    CaptionTokens,
    NgramTable,
    as_texts,
    encode,
    find,
    inverse_document_frequencies,
    ngram_tables,
    sums_by_caption,
)
from src.metrics.rouge import rouge_f

REPEATS = 3
"""Occurrences of one n-gram in a sentence beyond this many match nothing."""
_CELLS = 4_000_000  # of an array of sentences x captions, which bounds memory


def repeats(words: np.ndarray, orders: int = 1) -> list[np.ndarray]:
    """How often each n-gram [sentences, positions] of orders 1, 2, … occurred earlier in its sentence, int8 each.

    words: ids [sentences, length].
    """
    words = words.T.astype(np.min_scalar_type(words.max(initial=0)), order="C")  # long rows of small ids compare faster
    length, sentences = words.shape
    earlier = [np.zeros((length - order, sentences), dtype=np.int8) for order in range(min(orders, length))]
    for shift in range(1, length):
        same = words[shift:] == words[:-shift]
        ngrams = same
        for order, counts in enumerate(earlier[: length - shift]):
            if order:
                ngrams = ngrams[:-1] & same[order:]
            counts[shift:] += ngrams
    return [counts.T for counts in earlier]


@dataclass(frozen=True)
class _OrderTable:
    """The n-grams of one order that consist of vocabulary words, and their share in the sums of BLEU and CIDEr-D."""

    keys: np.ndarray
    """Packed n-grams, sorted, uint64 [n-grams]."""
    photos: np.ndarray
    """[REPEATS, n-grams]: photos with a reference in which the n-gram occurs at least that often."""
    idf: np.ndarray
    """Inverse document frequency, float64 [n-grams + 1]; the last is that of other n-grams."""
    caption: np.ndarray
    """[entries]: caption of each pair of a caption and an n-gram in it."""
    ngram: np.ndarray
    """[entries]: index of its n-gram."""
    count: np.ndarray
    """[entries]: its occurrences."""
    weight: np.ndarray
    """[entries]: its part in CIDEr-D's product, before the length penalty."""


class NgramScorer:
    """BLEU and CIDEr-D, exact, over all photos.

    Sentences consist of the `vocabulary` words that occur in the references of most photos. `words` lists them, and
    sentences are indices into it.
    """

    def __init__(self, references: list[list[str]], vocabulary: int):
        """references: tokenised captions of each photo, at least one."""
        spread = Counter(word for group in references for word in dict.fromkeys(" ".join(group).split()))
        frequent = set(sorted(spread, key=lambda word: (-spread[word], word))[:vocabulary])
        self.words = [word for word in spread if word in frequent]
        self._captions = encode(references, {word: i + 1 for i, word in enumerate(self.words)})
        tables = ngram_tables(self._captions, inverse_document_frequencies(self._captions))
        self.orders = [
            _order_table(table, self._captions, len(self.words), order) for order, table in enumerate(tables, 1)
        ]
        self._by_length: dict[int, tuple[float, list[np.ndarray]]] = {}

    def frequent_pairs(self, count: int) -> np.ndarray:
        """The pairs of words that follow each other in the references of most photos, int64 [at most count, 2]."""
        pairs = self.orders[1]
        keys = pairs.keys[np.lexsort((pairs.keys, -pairs.photos[0]))[:count]].astype(np.int64)
        return np.column_stack([keys >> 16, keys & 0xFFFF]) - 1

    def _of_length(self, length: int) -> tuple[float, list[np.ndarray]]:
        """Sum of the closest reference lengths, and CIDEr-D's products [REPEATS, n-grams] by order."""
        if length not in self._by_length:
            lengths, owner = self._captions.lengths, self._captions.photo
            best = np.lexsort((lengths, np.abs(lengths - length), owner))
            closest = lengths[best[self._captions.firsts[:-1]]]
            penalty = length_penalty(lengths - length)
            products = [
                np.stack([_products(table, penalty, times) for times in range(1, REPEATS + 1)]) for table in self.orders
            ]
            self._by_length[length] = float(closest.sum()), products
        return self._by_length[length]

    def score(self, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """BLEU-1..4 [sentences, 4] and CIDEr-D [sentences] of sentences int [sentences, length]."""
        total, length = sentences.shape
        closest, products = self._of_length(length)
        photos = self._captions.photos
        sums = np.zeros((total, 2 * ORDERS + 2))
        cider = np.zeros(total)
        words = (sentences + 1).astype(np.uint64)
        keys = words
        for order, (table, times) in enumerate(zip(self.orders, repeats(sentences, ORDERS), strict=False)):
            if order:
                keys = keys[:, :-1] << np.uint64(16) | words[:, order:]
            sums[:, ORDERS + order] = photos * (length - order)
            ngram = find(table.keys, keys.ravel()).reshape(keys.shape)
            # An n-gram that occurs c times adds c^2 idf^2 to the squared norm: 1 + 3 + 5 + ... of its occurrences.
            norm = np.sqrt(((2 * times + 1) * table.idf[ngram] ** 2).sum(axis=1))
            matching = (ngram >= 0) & (times < REPEATS)
            if matching.any():
                cell = np.where(matching, times, 0), np.where(matching, ngram, 0)
                product = (products[order][cell] * matching).sum(axis=1)
                cider += np.divide(product, norm, out=np.zeros(total), where=norm > 0)
                sums[:, order] = (table.photos[cell] * matching).sum(axis=1)
        sums[:, -2], sums[:, -1] = photos * length, closest
        return bleu_scores(sums), 10 * cider / ORDERS


def _order_table(table: NgramTable, captions: CaptionTokens, vocabulary: int, order: int) -> _OrderTable:
    """Of n-grams all of whose ids are at most `vocabulary`."""
    size = len(table.keys)
    ids = [table.keys >> np.uint64(16 * place) & np.uint64(0xFFFF) for place in range(order)]
    inside = np.all([each <= vocabulary for each in ids], axis=0)
    of_pair = table.pairs % max(size, 1)
    photos = np.stack([np.bincount(of_pair[table.most > times], minlength=size) for times in range(REPEATS)])
    idf = table.idf.of(table.keys)
    ngram, caption = table.entries(captions)
    norm = table.norms[caption]
    weight = np.divide(table.count * idf[ngram] ** 2, norm, out=np.zeros(len(ngram)), where=norm > 0)
    weight /= np.diff(captions.firsts)[captions.photo[caption]] * captions.photos
    index, kept = np.cumsum(inside) - 1, inside[ngram]
    return _OrderTable(
        keys=table.keys[inside],
        photos=photos[:, inside].astype(np.float64),
        idf=np.append(idf[inside], table.idf.values[-1]),
        caption=caption[kept],
        ngram=index[ngram[kept]],
        count=table.count[kept],
        weight=weight[kept],
    )


def _products(table: _OrderTable, penalty: np.ndarray, times: int) -> np.ndarray:
    enough = table.count >= times
    weights = table.weight[enough] * penalty[table.caption[enough]]
    return np.bincount(table.ngram[enough], weights=weights, minlength=len(table.keys))


class ProxyScorer:
    """METEOR's proxy and ROUGE-L over a sample of the photos, at most two occurrences of a word matching."""

    def __init__(self, references: list[list[str]], words: list[str]):
        """references: tokenised captions of each photo of the sample; words: those that sentences consist of."""
        ids = {word: i + 1 for i, word in enumerate(words)}
        captions = encode(references, ids)
        table = word_table(["", *ids])
        self.photos, self._firsts, self._photo = captions.photos, captions.firsts[:-1], captions.photo
        self.lengths = captions.lengths.astype(np.float64)
        self.word_weights = table.weight[1 : len(words) + 1]
        self.caption_weights = sums_by_caption(table.weight[captions.tokens], captions.lengths)
        inside = captions.tokens <= len(words)
        self._texts = as_texts(captions.tokens[inside], sums_by_caption(inside, captions.lengths).astype(np.int64))
        unigrams, bigrams = ngram_tables(captions, inverse_document_frequencies(captions)[:2])
        self._match(unigrams, captions, table, len(words))
        self._follow(bigrams, captions, len(words))

    def _match(self, unigrams: NgramTable, captions: CaptionTokens, table: WordTable, vocabulary: int) -> None:
        """Matches and weighted matches [2 occurrences, words, captions] of each word in each caption."""
        has_stem = np.zeros((len(table.stem), len(self.lengths)), dtype=bool)
        has_stem[table.stem[captions.tokens], np.repeat(np.arange(len(self.lengths)), captions.lengths)] = True
        weight = np.zeros((2, vocabulary, len(self.lengths)), dtype=np.float32)
        weight[0] = STEM_WEIGHT * has_stem[table.stem[1 : vocabulary + 1]]
        ngram, caption = unigrams.entries(captions)
        word = unigrams.keys[ngram].astype(np.int64) - 1
        for times in range(2):
            again = (word < vocabulary) & (unigrams.count > times)
            weight[times, word[again], caption[again]] = 1.0
        self.matched = (weight > 0).astype(np.float32)
        self.weight = weight * self.word_weights[None, :, None].astype(np.float32)

    def _follow(self, bigrams: NgramTable, captions: CaptionTokens, vocabulary: int) -> None:
        """The row of each pair of words [words, words], 0 for none, and which captions have it [rows, captions]."""
        keys = bigrams.keys.astype(np.int64)
        first, second = keys >> 16, keys & 0xFFFF
        inside = (first <= vocabulary) & (second <= vocabulary)
        row = np.where(inside, np.cumsum(inside), 0)
        self.pair_row = np.zeros((vocabulary, vocabulary), dtype=np.int64)
        self.pair_row[first[inside] - 1, second[inside] - 1] = row[inside]
        self.adjacent = np.zeros((inside.sum() + 1, len(self.lengths)), dtype=np.float32)
        ngram, caption = bigrams.entries(captions)
        self.adjacent[row[ngram], caption] = 1
        self.adjacent[0] = 0

    def score(self, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """METEOR's proxy and ROUGE-L [sentences] of sentences int [sentences, length]."""
        block = max(1, _CELLS // len(self.lengths))
        blocks = [sentences[i : i + block] for i in range(0, len(sentences), block)]
        return np.concatenate([self._meteor(some) for some in blocks]), np.concatenate(
            [self.rouge_l(some) for some in blocks]
        )

    def _meteor(self, sentences: np.ndarray) -> np.ndarray:
        (times,) = repeats(sentences)
        weight = np.zeros((len(sentences), len(self.lengths)), dtype=np.float32)
        count, adjacent = np.zeros_like(weight), np.zeros_like(weight)
        for i in range(sentences.shape[1]):
            usable = (times[:, i] < 2).astype(np.float32)[:, None]
            cell = np.minimum(times[:, i], 1), sentences[:, i]
            weight += self.weight[cell] * usable
            count += self.matched[cell] * usable
            if i:
                adjacent += self.adjacent[self.pair_row[sentences[:, i - 1], sentences[:, i]]]
        count = np.minimum(count, self.lengths)
        chunks = np.maximum(count - adjacent, np.minimum(count, 1))
        possible = self.word_weights[sentences].sum(axis=1)[:, None]
        single = proxy_formula(weight, possible, self.caption_weights, chunks, count)
        # The counts of the best reference of each photo are summed; equally good references share.
        best = single == np.maximum.reduceat(single, self._firsts, axis=1)[:, self._photo]
        share = best / np.add.reduceat(best, self._firsts, axis=1)[:, self._photo]
        weight, chunks, count = (np.einsum("sc,sc->s", share, part) for part in (weight, chunks, count))
        return proxy_formula(weight, possible[:, 0] * self.photos, share @ self.caption_weights, chunks, count)

    def rouge_l(self, sentences: np.ndarray) -> np.ndarray:
        """ROUGE-L [sentences]."""
        texts = as_texts(sentences.ravel() + 1, np.full(len(sentences), sentences.shape[1]))
        common = process.cdist(texts, self._texts, scorer=LCSseq.similarity, dtype=np.uint8).astype(np.float32)
        precision = np.maximum.reduceat(common, self._firsts, axis=1) / sentences.shape[1]
        recall = np.maximum.reduceat(common / np.maximum(self.lengths, 1), self._firsts, axis=1)
        return rouge_f(precision, recall).mean(axis=1)

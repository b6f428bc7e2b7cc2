"""Scores of constant sentences: tables gathered once against comparing each sentence with every photo."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from src.metrics.bleu_cider import bleu_scores
from src.metrics.comparisons import Comparisons, prepare
from src.metrics.constant_scores import NgramScorer, ProxyScorer
from src.metrics.meteor_proxy import proxy_score, word_table
from src.metrics.ngrams import encode, inverse_document_frequencies

PHOTOS, REFERENCES, WORDS, VOCABULARY, SENTENCES, LENGTH = 1000, 2, 2000, 250, 400, 12
COMPARED = 20  # sentences that are compared with every photo


def _references(rng: np.random.Generator) -> list[list[str]]:
    """Captions of 8 to 14 words by Zipf's law."""
    frequency = 1 / np.arange(1, WORDS + 1)
    frequency /= frequency.sum()

    def caption() -> str:
        return " ".join(f"w{word}" for word in rng.choice(WORDS, size=rng.integers(8, 15), p=frequency))

    return [[caption() for _ in range(REFERENCES)] for _ in range(PHOTOS)]


def _seconds(score: Callable[[], object]) -> float:
    score()
    began = time.perf_counter()
    score()
    return time.perf_counter() - began


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of all metrics of 400 sentences; those of the comparisons are extrapolated from 20 sentences."""
    rng = np.random.default_rng(0)
    references = _references(rng)
    ngrams = NgramScorer(references, VOCABULARY)
    sample = ProxyScorer(references, ngrams.words)
    sentences = rng.integers(VOCABULARY, size=(SENTENCES, LENGTH))
    ids = {word: i + 1 for i, word in enumerate(ngrams.words)}
    captions = encode(references, ids)
    prepared = prepare(captions, inverse_document_frequencies(captions), word_table(["", *ids]))
    photos, lengths = np.arange(PHOTOS), np.full(PHOTOS, LENGTH)

    def compare_each() -> None:
        for sentence in sentences[:COMPARED]:
            comparisons = Comparisons(prepared, photos, np.tile(sentence + 1, PHOTOS), lengths)
            bleu = bleu_scores(comparisons.bleu_counts.sum(axis=0))
            meteor = proxy_score(comparisons.meteor_counts_of_pairs())
            _ = bleu, meteor, comparisons.cider_d().mean(), comparisons.rouge_l().mean()

    ours = _seconds(lambda: (ngrams.score(sentences), sample.score(sentences)))
    other = _seconds(compare_each) * SENTENCES / COMPARED
    yield f"{SENTENCES} constant sentences x {PHOTOS:,} photos", ours, other, "Comparisons with every photo"

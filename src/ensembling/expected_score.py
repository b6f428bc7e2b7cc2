"""What a caption is expected to score by the competition's formula where its references are guessed, not known.

Minimum Bayes risk (Kumar & Byrne 2004; Eikema & Aziz 2020) needs the utility of each candidate against each
pseudo-reference: the evidence. Here it is the formula, and what the formula takes from the whole corpus is handled so:

- CIDEr-D's document frequencies come from training captions: those of the evaluated references are unknown, and much
  the same.
- METEOR is its proxy (`meteor_proxy`): the program itself takes a thousand times as long.
- BLEU and METEOR are functions of counts summed over the corpus, in which a caption without any match of four words
  costs little, while its own BLEU-4 is 0. So a caption counts for what its expected counts change in the corpus's
  score, to first order (`gain_in_corpus`). BLEU's brevity penalty is part of that: a further word gains much where the
  corpus is too short, and nothing where it is not.
- ROUGE-L and CIDEr-D are means over photos.

`ExpectedScores.caption_score` is the formula of each caption by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics.bleu_cider import bleu_scores
from src.metrics.comparisons import Comparisons, prepare
from src.metrics.competition_score import caption_score
from src.metrics.meteor_proxy import WordTable, proxy_score, word_table
from src.metrics.ngrams import encode, inverse_document_frequencies
from src.settings.schema import CaptionWeights

_PAIRS = 100_000  # compared at a time, which bounds memory


@dataclass(frozen=True)
class PseudoReferences:
    """What the references of one photo may be."""

    captions: list[str]
    """Tokenised, at least one."""
    weights: np.ndarray
    """How much each counts, float64 [captions], or [candidates, captions]: for each candidate its own."""

    def normalised(self, candidates: int) -> np.ndarray:
        """The weights candidate by candidate in a row, those of each summing to 1."""
        normalised = self.weights / self.weights.sum(axis=-1, keepdims=True)
        return np.broadcast_to(normalised, (candidates, len(self.captions))).ravel()


@dataclass(frozen=True)
class ExpectedScores:
    """Means over the evidence, of n captions or pairs of captions."""

    caption_score: np.ndarray
    """The formula of the caption by itself [n]."""
    cider_d: np.ndarray
    rouge_l: np.ndarray
    bleu: np.ndarray
    """Counts as in `NgramComparison.bleu_counts` [n, 10]."""
    meteor: np.ndarray
    """Counts as in `proxy_score` [n, 5]."""

    def as_table(self) -> np.ndarray:
        """All numbers side by side [n, COLUMNS]."""
        return np.column_stack([getattr(self, name) for name in FIELDS])

    @classmethod
    def of_table(cls, table: np.ndarray) -> "ExpectedScores":
        """What `as_table` made [n, COLUMNS]."""
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3:13], table[:, 13:])

    def select(self, rows: np.ndarray) -> "ExpectedScores":
        """Some of them."""
        return ExpectedScores(*(getattr(self, name)[rows] for name in FIELDS))


def mixed(parts: Sequence[ExpectedScores], weights: Sequence[float]) -> ExpectedScores:
    """Of the same captions under a mixture of evidence, whose parts have these weights; they sum to 1."""
    pairs = list(zip(parts, weights, strict=True))
    return ExpectedScores(*(sum(weight * getattr(part, name) for part, weight in pairs) for name in FIELDS))


def concatenated(parts: Sequence[ExpectedScores]) -> ExpectedScores:
    """The captions of all parts in a row."""
    return ExpectedScores(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


FIELDS = ("caption_score", "cider_d", "rouge_l", "bleu", "meteor")
COLUMNS = 18
"""Numbers of one caption, in all fields."""


def gain_in_corpus(expected: ExpectedScores, corpus: ExpectedScores, weights: CaptionWeights) -> np.ndarray:
    """What each caption adds to the score of a corpus of captions, times the corpus's size, to first order [n]."""
    bleu = _gradient(lambda sums: weights.bleu * bleu_scores(sums)[..., 2:].mean(axis=-1), corpus.bleu.sum(axis=0))
    meteor = _gradient(lambda sums: weights.meteor * proxy_score(sums), corpus.meteor.sum(axis=0))
    counted = len(corpus.cider_d) * (expected.bleu @ bleu + expected.meteor @ meteor)
    return counted + weights.cider_d * expected.cider_d + weights.rouge_l * expected.rouge_l


def _gradient(function: Callable[[np.ndarray], np.ndarray], sums: np.ndarray) -> np.ndarray:
    """The gradient of a function of counts, by central differences."""
    steps = np.diag(np.maximum(sums * 1e-4, 1e-6))
    return (function(sums + steps) - function(np.maximum(sums - steps, 0))) / (2 * np.diag(steps))


class ExpectedScorer:
    """Scores captions against evidence, many photos at a time; keeps nothing from call to call but words."""

    def __init__(self, references: Sequence[Sequence[str]], weights: CaptionWeights):
        """references: tokenised captions of the training photos. weights: of the formula."""
        self.weights = weights
        counts: dict[str, int] = {}
        for caption in (caption for group in references for caption in group):
            for word in caption.split():
                counts[word] = counts.get(word, 0) + 1
        words = sorted(counts, key=lambda word: (-counts[word], word))
        self._ids = {word: i + 1 for i, word in enumerate(words)}
        self._idf = inverse_document_frequencies(encode(references, self._ids))

    def learn(self, captions: Iterable[str]) -> None:
        """Give the words of tokenised captions their ids, so that these do not depend on which calls come first."""
        for caption in captions:
            for word in caption.split():
                self._ids.setdefault(word, len(self._ids) + 1)

    def expected(self, candidates: Sequence[list[str]], evidence: Sequence[PseudoReferences]) -> ExpectedScores:
        """Of each candidate under its photo's evidence, candidates of all photos in a row."""
        captions, parts = [each.captions for each in evidence], []
        lexicon = self._lexicon(candidates, captions)
        for block in _blocks(candidates, captions):
            scores, first = self._compare(candidates[block], captions[block], *lexicon)
            pairs = zip(candidates[block], evidence[block], strict=True)
            weights = [references.normalised(len(of_photo)) for of_photo, references in pairs]
            parts.append(_means(scores, np.concatenate(weights), first))
        return concatenated(parts)

    def _lexicon(self, *sides: Sequence[list[str]]) -> tuple[dict[str, int], WordTable]:
        """Ids of all words, those of the training captions first, and what METEOR's proxy needs to know of them."""
        ids = dict(self._ids)
        for caption in (caption for side in sides for group in side for caption in group):
            for word in caption.split():
                ids.setdefault(word, len(ids) + 1)
        return ids, word_table(["", *ids])

    def _compare(
        self, candidates: Sequence[list[str]], evidence: Sequence[list[str]], ids: dict[str, int], words: WordTable
    ) -> tuple[ExpectedScores, np.ndarray]:
        """Of every pair, and the first pair of each candidate."""
        references, encoded = prepare(encode(evidence, ids), self._idf, words), encode(candidates, ids)
        comparisons = Comparisons(references, encoded.photo, encoded.tokens, encoded.lengths)
        return self._of_pairs(comparisons), comparisons.first

    def _of_pairs(self, pairs: Comparisons) -> ExpectedScores:
        cider, rouge = pairs.cider_d_of_pairs(), pairs.rouge_l_of_pairs()
        bleu, meteor = pairs.bleu_counts_of_pairs(), pairs.meteor_counts_of_pairs()
        scores = bleu_scores(bleu)
        terms = {"cider_d": cider, "rouge_l": rouge, "bleu3": scores[:, 2], "bleu4": scores[:, 3]}
        score = caption_score({**terms, "meteor": proxy_score(meteor)}, self.weights)
        return ExpectedScores(score, cider, rouge, bleu, meteor)


def _blocks(candidates: Sequence[list[str]], evidence: Sequence[list[str]]) -> Iterator[slice]:
    """Photos in turn, so many that their pairs are few enough."""
    begin, pairs = 0, 0
    for photo, (of_photo, references) in enumerate(zip(candidates, evidence, strict=True)):
        size = len(of_photo) * len(references)
        if pairs and pairs + size > _PAIRS:
            yield slice(begin, photo)
            begin, pairs = photo, 0
        pairs += size
    if begin < len(candidates):
        yield slice(begin, len(candidates))


def _means(scores: ExpectedScores, weights: np.ndarray, first: np.ndarray) -> ExpectedScores:
    """Weighted sums over the pairs of each candidate, whose first ones are given."""
    values = (getattr(scores, name) for name in FIELDS)
    weighted = (value * (weights if value.ndim == 1 else weights[:, None]) for value in values)
    return ExpectedScores(*(np.add.reduceat(value, first, axis=0) for value in weighted))

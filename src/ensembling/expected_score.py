"""What a caption is expected to score by the competition's formula where its references are guessed, not known.

Minimum Bayes risk (Kumar & Byrne 2004; Eikema & Aziz 2020) needs the utility of each candidate against each
pseudo-reference: the evidence. Here it is the formula, and what the formula takes from the whole corpus is handled so:

- CIDEr-D's document frequencies come from training captions: those of the evaluated references are unknown, and much
  the same.
- METEOR is the stand-in of `Comparisons`: the program itself takes a thousand times as long.
- BLEU and METEOR are functions of counts summed over the corpus, in which a caption without any match of four words
  costs little, while its own BLEU-4 is 0. So a caption counts for what its expected counts change in the corpus's
  score, to first order (`corpus_worth`). BLEU's brevity penalty is part of that: a word more is worth much where the
  corpus is too short, and nothing where it is not.
- ROUGE-L and CIDEr-D are means over photos.

`Expected.sentence` has the formula of each caption by itself as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics.comparisons import Comparisons, Kinds, kinds_of, meteor_of, prepare
from src.metrics.competition_score import caption_score
from src.metrics.ngram_table import LARGEST_ID, rarities
from src.metrics.ngrams import bleu_scores, rouge_f

_AT_ONCE = 100_000  # comparisons, which bounds memory


@dataclass(frozen=True)
class PseudoReferences:
    """What the references of one photo may be."""

    captions: list[str]
    """Tokenised, at least one."""
    weights: np.ndarray
    """How much each counts, float64 [captions], or [candidates, captions]: for each candidate its own."""

    def shares(self, candidates: int) -> np.ndarray:
        """The weights candidate by candidate in a row, those of each summing to 1."""
        shares = self.weights / self.weights.sum(axis=-1, keepdims=True)
        return np.broadcast_to(shares, (candidates, len(self.captions))).ravel()


@dataclass(frozen=True)
class ExpectedScores:
    """Means over the evidence, of n captions or pairs of captions."""

    sentence: np.ndarray
    """The formula of the caption by itself [n]."""
    cider_d: np.ndarray
    rouge_l: np.ndarray
    bleu: np.ndarray
    """Counts as in `bleu_counts` [n, 10]."""
    meteor: np.ndarray
    """Counts as in `meteor_of` [n, 5]."""

    def select(self, rows: np.ndarray) -> "ExpectedScores":
        """Some of them."""
        return ExpectedScores(*(getattr(self, name)[rows] for name in FIELDS))


def mixed(parts: Sequence[ExpectedScores], shares: Sequence[float]) -> ExpectedScores:
    """What the same captions are expected to score where each part of the evidence has its share; these sum to 1."""
    pairs = list(zip(parts, shares, strict=True))
    return ExpectedScores(*(sum(share * getattr(part, name) for part, share in pairs) for name in FIELDS))


def concatenated(parts: Sequence[ExpectedScores]) -> ExpectedScores:
    """The captions of all parts in a row."""
    return ExpectedScores(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


FIELDS = ("sentence", "cider_d", "rouge_l", "bleu", "meteor")


def corpus_worth(expected: ExpectedScores, corpus: ExpectedScores, weights) -> np.ndarray:
    """What each caption adds to the score of a corpus of captions, times the corpus's size, to first order [n]."""
    bleu, meteor = corpus.bleu.sum(axis=0), corpus.meteor.sum(axis=0)

    def brevity_and_matches(sums: np.ndarray) -> np.ndarray:
        return weights.bleu * bleu_scores(sums)[..., 2:].mean(axis=-1)

    slopes = _slopes(brevity_and_matches, bleu), _slopes(lambda sums: weights.meteor * meteor_of(sums), meteor)
    photos = len(corpus.cider_d)
    counted = photos * (expected.bleu @ slopes[0] + expected.meteor @ slopes[1])
    return counted + weights.cider_d * expected.cider_d + weights.rouge_l * expected.rouge_l


def _slopes(function, sums: np.ndarray) -> np.ndarray:
    """The gradient of a function of counts, by central differences."""
    steps = np.diag(np.maximum(sums * 1e-4, 1e-6))
    return (function(sums + steps) - function(np.maximum(sums - steps, 0))) / (2 * np.diag(steps))


class ExpectedScorer:
    """Scores captions against evidence, many photos at a time; keeps nothing from call to call."""

    def __init__(self, references: Sequence[Sequence[str]], weights):
        """references: tokenised captions of the training photos. weights: of the formula."""
        self.weights = weights
        counts: dict[str, int] = {}
        for caption in (caption for group in references for caption in group):
            for word in caption.split():
                counts[word] = counts.get(word, 0) + 1
        words = sorted(counts, key=lambda word: (-counts[word], word))
        self._number = {word: i + 1 for i, word in enumerate(words)}
        tokens, starts, firsts = self._flat(references, self._number)
        self._rarity = rarities(tokens, starts, firsts, np.arange(len(references)))

    def pairs(self, candidates: Sequence[list[str]], evidence: Sequence[list[str]]) -> list[np.ndarray]:
        """The formula of each candidate against each piece of evidence, by photo, float64 [candidates, evidence].

        Both are tokenised and hold at least one caption a photo.
        """
        out, lexicon = [], self._lexicon(candidates, evidence)
        for block in _blocks(candidates, evidence):
            found = self._compare(candidates[block], evidence[block], *lexicon)[0].sentence
            shapes = [(len(ours), len(theirs)) for ours, theirs in zip(candidates[block], evidence[block], strict=True)]
            ends = np.cumsum([rows * columns for rows, columns in shapes])
            out += [part.reshape(shape) for part, shape in zip(np.split(found, ends[:-1]), shapes, strict=True)]
        return out

    def expected(self, candidates: Sequence[list[str]], evidence: Sequence[PseudoReferences]) -> ExpectedScores:
        """Of each candidate under its photo's evidence, candidates of all photos in a row."""
        captions, parts = [each.captions for each in evidence], []
        lexicon = self._lexicon(candidates, captions)
        for block in _blocks(candidates, captions):
            found, first = self._compare(candidates[block], captions[block], *lexicon)
            shares = [each.shares(len(ours)) for ours, each in zip(candidates[block], evidence[block], strict=True)]
            parts.append(_means(found, np.concatenate(shares), first))
        return concatenated(parts)

    def _lexicon(self, *sides: Sequence[list[str]]) -> tuple[dict[str, int], Kinds]:
        """Every word by number, those of the training captions first, and what METEOR's stand-in knows of them."""
        number = dict(self._number)
        for caption in (caption for side in sides for group in side for caption in group):
            for word in caption.split():
                number.setdefault(word, len(number) + 1)
        return number, kinds_of(["", *number])

    def _compare(self, candidates, evidence, number: dict[str, int], kinds: Kinds) -> tuple[ExpectedScores, np.ndarray]:
        """Of every pair, and the first pair of each candidate."""
        references = prepare(*self._flat(evidence, number), self._rarity, kinds)
        ours, starts, firsts = self._flat(candidates, number)
        lengths = np.diff(starts)
        samples = np.zeros((len(lengths), lengths.max(initial=1)), np.int64)
        samples[np.arange(samples.shape[1]) < lengths[:, None]] = ours
        both = Comparisons(references, np.repeat(np.arange(len(candidates)), np.diff(firsts)), samples)
        return self._of_pairs(both), both.first

    @staticmethod
    def _flat(groups, number: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, starts and firsts as in `Reward`; the rarest words past the largest id count as one."""
        lists = [caption.split() for group in groups for caption in group]
        tokens = np.array([min(number[word], LARGEST_ID) for words in lists for word in words], np.int64)
        return tokens, np.cumsum([0, *map(len, lists)]), np.cumsum([0, *map(len, groups)])

    def _of_pairs(self, both: Comparisons) -> ExpectedScores:
        cider, rouge, bleu, meteor = both.cider_d(), rouge_f(*both.rouge_l()), both.bleu(), both.meteor()
        scores = bleu_scores(bleu)
        terms = {"cider_d": cider, "rouge_l": rouge, "bleu3": scores[:, 2], "bleu4": scores[:, 3]}
        return ExpectedScores(
            caption_score({**terms, "meteor": meteor_of(meteor)}, self.weights), cider, rouge, bleu, meteor
        )


def _blocks(candidates, evidence) -> Iterator[slice]:
    """Photos in turn, so many that their pairs are few enough."""
    begin, pairs = 0, 0
    for photo, (ours, theirs) in enumerate(zip(candidates, evidence, strict=True)):
        size = len(ours) * len(theirs)
        if pairs and pairs + size > _AT_ONCE:
            yield slice(begin, photo)
            begin, pairs = photo, 0
        pairs += size
    if begin < len(candidates):
        yield slice(begin, len(candidates))


def _means(found: ExpectedScores, weights: np.ndarray, first: np.ndarray) -> ExpectedScores:
    """Weighted sums over the pairs of each candidate, whose first ones are given."""
    values = (getattr(found, name) for name in FIELDS)
    weighted = (value * (weights if value.ndim == 1 else weights[:, None]) for value in values)
    return ExpectedScores(*(np.add.reduceat(value, first, axis=0) for value in weighted))

"""Minimum Bayes risk decoding: of all candidates for a photo's caption, the one with the highest expected score.

Kumar & Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation"; Eikema & Aziz 2020, "Is MAP
Decoding All You Need?". Candidates come from searches, samples, folds, runs, the captions of the nearest training
photos. Pseudo-references, the evidence of what the photo's references may be, are some of
them again, weighted. So a caption wins that shares most with what is likely, not the most likely one.

Some random training captions that may not be chosen belong into the evidence too: they stand for all that the
captioner does not know, and keep the choice from trusting it too far.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from src.ensembling.expected_score import ExpectedScores, PseudoReferences, concatenated, gain_in_corpus
from src.settings.schema import CaptionWeights

_ROUNDS = 8
_LAST_RESORT = 1e6  # more than any caption adds


@dataclass(frozen=True)
class EvidenceSource:
    """What may be the references of one photo: captions that come from one place, at least one."""

    captions: Sequence[str]
    """Tokenised."""
    weights: Sequence[float] | None = None
    """Of each; not given: all alike."""
    groups: Sequence[int] | None = None
    """From 0 on. Which belong together, such as those of one training photo: none is evidence for another of its group.
    Not given: each is a group of its own."""

    def leaving_one_out(self, candidates: Sequence[str]) -> PseudoReferences:
        """The evidence for each candidate without the first group that holds it, unless nothing else is left.

        Where other groups hold the same caption (several searches found it, a sample was drawn twice), these still
        count for it.
        """
        count = len(self.captions)
        weights = np.ones(count) if self.weights is None else np.asarray(self.weights, float)
        groups = np.arange(count) if self.groups is None else np.asarray(self.groups)
        first_group: dict[str, int] = {}
        for caption, group in zip(self.captions, groups.tolist(), strict=True):
            first_group.setdefault(caption, group)
        left_out = np.array([first_group.get(candidate, -1) for candidate in candidates])
        weights = weights / weights.sum()
        by_candidate = np.where(groups == left_out[:, None], 0.0, weights)
        by_candidate[by_candidate.sum(axis=1) == 0] = weights
        return PseudoReferences(list(self.captions), by_candidate)


@dataclass(frozen=True)
class RankedCandidates:
    """A photo's candidates: the chosen one first, the others from the best to the worst."""

    captions: list[str]
    """At least one."""
    values: np.ndarray
    """What each adds to the score of the corpus, times the corpus's size, float64 [captions]."""
    allowed: np.ndarray
    """Bool [captions]; the others may be chosen only where no allowed one is left, and stand behind these."""

    def starting_with(self, caption: str) -> "RankedCandidates":
        """With this caption as the chosen one; one that is not among them counts as much as the best."""
        place = self.captions.index(caption) if caption in self.captions else None
        others = [i for i in range(len(self.captions)) if i != place]
        values = np.concatenate([self.values[[place or 0]], self.values[others]])
        allowed = np.concatenate([[True], self.allowed[others]])
        return RankedCandidates([caption, *(self.captions[i] for i in others)], values, allowed)

    def value_of(self, caption: str) -> float:
        """What one of the captions adds."""
        return float(self.values[self.captions.index(caption)])

    def loss(self, place: int) -> float:
        """What the chosen one adds beyond the one at `place`; it never falls from place to place."""
        return float(self.values[0] - self.values[place]) + (0.0 if self.allowed[place] else _LAST_RESORT)

    def where(self, kept: Sequence[bool]) -> "RankedCandidates":
        """Some of them; all where none is kept."""
        places = np.flatnonzero(kept)
        if len(places) in (0, len(self.captions)):
            return self
        return RankedCandidates([self.captions[i] for i in places], self.values[places], self.allowed[places])


def best_candidates(
    expected: Iterable[ExpectedScores],
    sizes: Sequence[int],
    weights: CaptionWeights,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """The index of each photo's best candidate among those of all photos [photos].

    expected: of all photos' candidates in a row, of which each photo has `sizes`, in blocks of photos; it is iterated
    over again and again. weights: of the formula. allowed: which may be chosen, bool; the first of a photo without any.
    The best is the one that adds most to the score of the corpus of all chosen captions; as that depends on the choice
    itself, it is made again until it stays, at most _ROUNDS times.
    """
    if not len(sizes):
        return np.zeros(0, int)
    ends = np.cumsum(sizes)

    def best_by(values_of: Callable[[ExpectedScores], np.ndarray]) -> tuple[np.ndarray, ExpectedScores]:
        """The best by some values, and the scores of these."""
        places, scores, begin = [], [], 0
        for block in expected:
            values, end = values_of(block), begin + len(block.cider_d)
            values = values if allowed is None else np.where(allowed[begin:end], values, -np.inf)
            best = first_largest(values, ends[(ends > begin) & (ends <= end)] - begin)
            places.append(best + begin)
            scores.append(block.select(best))
            begin = end
        return np.concatenate(places), concatenated(scores)

    places, corpus = best_by(lambda block: block.caption_score)
    for _ in range(_ROUNDS):
        again, scores = best_by(partial(gain_in_corpus, corpus=corpus, weights=weights))
        if (again == places).all():
            break
        places, corpus = again, scores
    return places


def chosen_scores(expected: Iterable[ExpectedScores], places: np.ndarray) -> ExpectedScores:
    """The scores of the candidates at `places`, ascending places among those of all blocks in a row."""
    parts, begin = [], 0
    for block in expected:
        end = begin + len(block.cider_d)
        parts.append(block.select(places[(places >= begin) & (places < end)] - begin))
        begin = end
    return concatenated(parts)


def ranked_candidates(
    candidates: Sequence[list[str]], values: np.ndarray, allowed: np.ndarray
) -> list[RankedCandidates]:
    """Each photo's candidates by value, of equals the first; after the allowed ones the others.

    values [candidates of all photos in a row]: what they add to the score. allowed: which may be chosen, bool.
    """
    ranked, begin = [], 0
    for captions in candidates:
        part = slice(begin, begin + len(captions))
        order = np.lexsort((-values[part], ~allowed[part]))
        ranked.append(RankedCandidates([captions[i] for i in order], values[part][order], allowed[part][order]))
        begin += len(captions)
    return ranked


def first_largest(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The index of the largest value of each photo, the first of equals; ends [photos]: where its values end."""
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([start + int(np.argmax(values[start:end])) for start, end in zip(starts, ends, strict=True)])

"""Minimum Bayes risk: of all captions that anybody proposes for a photo, the one that the others agree with most.

Candidates come from searches, samples, folds, systems, the captions of the nearest training photos, and the constant
sentence. The evidence, what the photo's references may be, is some of them again, weighed. The choice is by expected
score (`ExpectedScorer`), so that a caption wins which shares most with what is likely, not the likeliest one (Kumar & Byrne
2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation").

Some random training captions that may not be chosen, `Voice(captions, share, candidates=False)`, belong into the
evidence too: they stand for all that the captioner does not know, and keep the choice from trusting it too far.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.ensembling.expected_score import ExpectedScorer, ExpectedScores, PseudoReferences, corpus_worth

_ROUNDS = 8


@dataclass(frozen=True)
class EvidenceSource:
    """Captions of one photo that come from one place."""

    captions: Sequence[str]
    """Tokenised. Those without a word are left out."""
    share: float = 0.0
    """Their part of the evidence; 0: they are candidates only."""
    weights: Sequence[float] | None = None
    """How much each counts within the share; not given: all alike."""
    sources: Sequence[int] | None = None
    """Which belong together, such as those of one training photo: none of them is evidence for another. Not given:
    each stands alone."""
    candidates: bool = True
    """Whether they may be chosen."""


@dataclass(frozen=True)
class Pool:
    """All that is proposed for one photo."""

    candidates: list[str]
    """Distinct, in the order of the voices."""
    evidence: PseudoReferences
    """A candidate is no evidence for itself, nor are others of its source."""


def pool(voices: Sequence[EvidenceSource]) -> Pool:
    """The candidates and the evidence of all voices. Raises ValueError where there is none of either."""
    candidates: dict[str, None] = {}
    captions, weights, sources = [], [], []
    for number, voice in enumerate(voices):
        kept = [i for i, caption in enumerate(voice.captions) if caption]
        if voice.candidates:
            candidates.update(dict.fromkeys(voice.captions[i] for i in kept))
        own = np.ones(len(kept)) if voice.weights is None else np.asarray(voice.weights, float)[kept]
        if voice.share and own.sum():
            captions += [voice.captions[i] for i in kept]
            weights += (voice.share * own / own.sum()).tolist()
            sources += [(number, i if voice.sources is None else voice.sources[i]) for i in kept]
    if not candidates or not captions:
        raise ValueError("a photo has no candidate or no evidence")
    return Pool(list(candidates), _without_own(list(candidates), captions, np.array(weights), sources))


def _without_own(
    candidates: list[str], captions: list[str], weights: np.ndarray, sources: list[tuple]
) -> PseudoReferences:
    """Evidence in which a candidate does not count for itself: one source that has it is left out."""
    number = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    of_caption = np.array([number[source] for source in sources])
    first: dict[str, int] = {}
    for caption, source in zip(captions, of_caption.tolist(), strict=True):
        first.setdefault(caption, source)
    own = np.array([first.get(candidate, -1) for candidate in candidates])
    others = np.where(of_caption == own[:, None], 0.0, weights)
    alone = others.sum(axis=1) == 0  # nothing else speaks
    others[alone] = weights
    return PseudoReferences(captions, others)


@dataclass(frozen=True)
class Choice:
    """A caption for each photo."""

    captions: list[str]
    expected: ExpectedScores
    """What the chosen ones are expected to score [photos]."""


def consensus(pools: Sequence[Pool], utility: ExpectedScorer, corpus: bool = True) -> Choice:
    """The candidate of each photo with the highest expected score.

    corpus: by what it adds to the score of the corpus of all chosen captions; otherwise by its own score. The former
    depends on the choice itself, which therefore is made anew until it stays (some rounds at most).
    """
    expected = utility.expected([each.candidates for each in pools], [each.evidence for each in pools])
    chosen = select_captions_by_score(expected, [len(each.candidates) for each in pools], utility.weights, corpus)
    flat = [caption for each in pools for caption in each.candidates]
    return Choice([flat[i] for i in chosen], expected.select(chosen))


def select_captions_by_score(
    expected: ExpectedScores, sizes: Sequence[int], weights, corpus: bool = True, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Where the best candidate of each photo stands among those of all photos [photos]; arguments as for `consensus`.

    sizes: how many candidates each photo has. allowed: which may be chosen, bool; the first of a photo without any.
    """

    def values(found: np.ndarray) -> np.ndarray:
        return found if allowed is None else np.where(allowed, found, -np.inf)

    ends = np.cumsum(sizes)
    chosen = best(values(expected.sentence), ends)
    for _ in range(_ROUNDS if corpus else 0):
        again = best(values(corpus_worth(expected, expected.select(chosen), weights)), ends)
        if (again == chosen).all():
            break
        chosen = again
    return chosen


def best(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where the largest value of each photo stands; ends [photos]: where its values end. The first of equals."""
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([start + int(np.argmax(values[start:end])) for start, end in zip(starts, ends, strict=True)])

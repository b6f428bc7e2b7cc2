"""Minimum Bayes risk decoding: of all candidates for a photo's caption, the one with the highest expected score.

Kumar & Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation"; Eikema & Aziz 2020, "Is MAP
Decoding All You Need?". Candidates come from searches, samples, folds, runs, the captions of the nearest training
photos, and the constant sentence. Pseudo-references, the evidence of what the photo's references may be, are some of
them again, weighted. So a caption wins that shares most with what is likely, not the most likely one.

Some random training captions that may not be chosen, `EvidenceSource(captions, weight, candidates=False)`, belong into
the evidence too: they stand for all that the captioner does not know, and keep the choice from trusting it too far.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.ensembling.expected_score import ExpectedScores, PseudoReferences, gain_in_corpus
from src.settings.schema import CaptionWeights

_ROUNDS = 8


@dataclass(frozen=True)
class EvidenceSource:
    """Captions of one photo that come from one place."""

    captions: Sequence[str]
    """Tokenised. Those without a word are left out."""
    weight: float = 0.0
    """Of all of them in the evidence; 0: they are candidates only."""
    caption_weights: Sequence[float] | None = None
    """Of each within the source; not given: all alike."""
    groups: Sequence[int] | None = None
    """Which belong together, such as those of one training photo: none is evidence for another of its group. Not given:
    each is a group of its own."""
    candidates: bool = True
    """Whether they may be chosen."""


@dataclass(frozen=True)
class MbrProblem:
    """The candidates for one photo's caption, and the evidence."""

    candidates: list[str]
    """Distinct, in the order of the sources."""
    references: PseudoReferences
    """Weighted for each candidate: without the first group that holds the candidate itself, unless nothing else is
    left. Where other groups hold the same caption (several searches found it, a sample was drawn twice), these still
    count for it."""


def mbr_problem(sources: Sequence[EvidenceSource]) -> MbrProblem:
    """The candidates and the evidence of all sources. Raises ValueError where there is none of either."""
    candidates: dict[str, None] = {}
    captions: list[str] = []
    weights: list[float] = []
    groups: list[tuple[int, int]] = []
    for number, source in enumerate(sources):
        kept = [i for i, caption in enumerate(source.captions) if caption]
        if source.candidates:
            candidates.update(dict.fromkeys(source.captions[i] for i in kept))
        inner = np.ones(len(kept))
        if source.caption_weights is not None:
            inner = np.asarray(source.caption_weights, float)[kept]
        if source.weight and inner.sum():
            captions += [source.captions[i] for i in kept]
            weights += (source.weight * inner / inner.sum()).tolist()
            groups += [(number, i if source.groups is None else source.groups[i]) for i in kept]
    if not candidates or not captions:
        raise ValueError("a photo has no candidate or no evidence")
    return MbrProblem(list(candidates), _leaving_one_out(list(candidates), captions, np.array(weights), groups))


def _leaving_one_out(
    candidates: list[str], captions: list[str], weights: np.ndarray, groups: list[tuple[int, int]]
) -> PseudoReferences:
    """The evidence for each candidate without the first group that holds it; groups: of each caption."""
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    group_of_caption = np.array([number[group] for group in groups])
    first_group: dict[str, int] = {}
    for caption, group in zip(captions, group_of_caption.tolist(), strict=True):
        first_group.setdefault(caption, group)
    left_out = np.array([first_group.get(candidate, -1) for candidate in candidates])
    by_candidate = np.where(group_of_caption == left_out[:, None], 0.0, weights)
    by_candidate[by_candidate.sum(axis=1) == 0] = weights
    return PseudoReferences(captions, by_candidate)


def best_candidates(
    expected: ExpectedScores, sizes: Sequence[int], weights: CaptionWeights, allowed: np.ndarray | None = None
) -> np.ndarray:
    """The index of each photo's best candidate among those of all photos [photos].

    expected: of all photos' candidates in a row, of which each photo has `sizes`. weights: of the formula. allowed:
    which may be chosen, bool; the first of a photo without any. The best is the one that adds most to the score of the
    corpus of all chosen captions; as that depends on the choice itself, it is made again until it stays, at most
    _ROUNDS times.
    """

    def chosen_by(values: np.ndarray) -> np.ndarray:
        return first_largest(values if allowed is None else np.where(allowed, values, -np.inf), np.cumsum(sizes))

    chosen = chosen_by(expected.caption_score)
    for _ in range(_ROUNDS):
        again = chosen_by(gain_in_corpus(expected, expected.select(chosen), weights))
        if (again == chosen).all():
            break
        chosen = again
    return chosen


def first_largest(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The index of the largest value of each photo, the first of equals; ends [photos]: where its values end."""
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([start + int(np.argmax(values[start:end])) for start, end in zip(starts, ends, strict=True)])

"""A caption improved word by word for its expected score: hill climbing from the chosen candidate on.

The best caption for the formula need not be one that anybody wrote. Each round tries all captions one edit away from
the present one, among words that the evidence holds, and goes to the one with the highest expected score.
"""

from collections.abc import Sequence

import numpy as np

from src.ensembling.expected_score import ExpectedScorer, PseudoReferences, gain_in_corpus
from src.ensembling.mbr import MbrProblem, first_largest

_ROUNDS = 12
_WORDS = 15
"""A photo's words, the most likely ones, that an edit may put in."""


def rewrite(captions: Sequence[str], problems: Sequence[MbrProblem], scorer: ExpectedScorer) -> list[str]:
    """The captions of photos after at most _ROUNDS edits each, under the evidence of the photos' problems.

    An edit is kept only where the caption gains more in the corpus of the given captions.
    """
    captions, evidence = list(captions), [problem.all_references() for problem in problems]
    corpus = scorer.expected([[caption] for caption in captions], evidence)
    likely = [_LikelyWords(references, _WORDS) for references in evidence]
    going = np.arange(len(captions))
    for _ in range(_ROUNDS):
        tried = [[captions[i], *likely[i].edits(captions[i])] for i in going]
        expected = scorer.expected(tried, [evidence[i] for i in going])
        ends = np.cumsum([len(edits) for edits in tried])
        best = first_largest(gain_in_corpus(expected, corpus, scorer.weights), ends)
        best -= np.concatenate([[0], ends[:-1]])
        for i, edits, place in zip(going, tried, best, strict=True):
            captions[i] = edits[place]
        going = going[best > 0]
        if not len(going):
            break
    return captions


class _LikelyWords:
    """The most likely words of a photo, and which of its words follow each other."""

    def __init__(self, evidence: PseudoReferences, words: int):
        mass: dict[str, float] = {}
        self.pairs: set[tuple[str, str]] = set()
        for caption, weight in zip(evidence.captions, evidence.weights.tolist(), strict=True):
            split = caption.split()
            self.pairs.update(zip(["", *split], [*split, ""], strict=True))
            for word in dict.fromkeys(split):
                mass[word] = mass.get(word, 0.0) + weight
        self.words = sorted(mass, key=lambda word: (-mass[word], word))[:words]

    def edits(self, caption: str) -> list[str]:
        """Captions with a word put in, left out or replaced; a new word stands between its neighbours as in the
        evidence."""
        old = caption.split()
        edited: dict[str, None] = {}
        for at in range(len(old) + 1):
            before = old[at - 1] if at else ""
            for drop in (0, 1)[: 1 + (at < len(old))]:
                rest = old[at + drop :]
                after = rest[0] if rest else ""
                for word in self.words:
                    if (before, word) in self.pairs and (word, after) in self.pairs:
                        edited[" ".join([*old[:at], word, *rest])] = None
                if drop and len(old) > 1:
                    edited[" ".join([*old[:at], *rest])] = None
        edited.pop(caption, None)
        return list(edited)

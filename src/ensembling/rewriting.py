"""A caption improved word by word for its expected score: hill climbing from the consensus on.

The best caption for the formula need not be one that anybody proposed. Each round tries all captions one edit away
from the present one, among words that the evidence holds, and goes to the one with the highest expected score.
"""

from collections.abc import Sequence

import numpy as np

from src.ensembling.expected_score import ExpectedScorer, PseudoReferences, corpus_worth
from src.ensembling.mbr import Choice, Pool, best

_ROUNDS = 12


def rewrite(
    choice: Choice, pools: Sequence[Pool], utility: ExpectedScorer, words: int = 15, rounds: int = _ROUNDS
) -> Choice:
    """The captions of `consensus` after at most so many edits each; the evidence is that of the pools.

    words: how many of a photo's words, the most likely ones, an edit may put in. An edit is kept only where the
    caption's worth in the corpus of the given choice grows.
    """
    captions, corpus = list(choice.captions), choice.expected
    evidence = [everything(each) for each in pools]
    likely = [_Likely(each, words) for each in evidence]
    going = np.arange(len(captions))
    for _ in range(rounds):
        tried = [[captions[i], *likely[i].edits(captions[i])] for i in going]
        expected = utility.expected(tried, [evidence[i] for i in going])
        ends = np.cumsum([len(each) for each in tried])
        chosen = best(corpus_worth(expected, corpus, utility.weights), ends)
        kept = chosen - np.concatenate([[0], ends[:-1]])
        going, tried = going[kept > 0], [each for each, at in zip(tried, kept, strict=True) if at]
        for i, each, at in zip(going, tried, kept[kept > 0], strict=True):
            captions[i] = each[at]
        if not len(going):
            break
    return Choice(captions, utility.expected([[caption] for caption in captions], evidence))


def everything(each: Pool) -> PseudoReferences:
    """The evidence for captions that nobody proposed: all that speaks for any candidate."""
    weights = each.evidence.weights
    return PseudoReferences(each.evidence.captions, weights.max(axis=0))


class _Likely:
    """The likeliest words of a photo, and which of its words follow each other."""

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
        """Captions one word longer, shorter or other; a new word stands between its neighbours as in the evidence."""
        old = caption.split()
        made: dict[str, None] = {}
        for at in range(len(old) + 1):
            before = old[at - 1] if at else ""
            for drop in (0, 1)[: 1 + (at < len(old))]:
                rest = old[at + drop :]
                after = rest[0] if rest else ""
                for word in self.words:
                    if (before, word) in self.pairs and (word, after) in self.pairs:
                        made[" ".join([*old[:at], word, *rest])] = None
                if drop and len(old) > 1:
                    made[" ".join([*old[:at], *rest])] = None
        made.pop(caption, None)
        return list(made)

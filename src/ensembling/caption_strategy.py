"""How captions are chosen, and which way is best for the photos of a fold, judged on the other folds.

A strategy is judged by what its captions score against people's, by the competition's formula itself. The captions of a
fold's own photos have no say in it, so that the out-of-fold score is honest (as in any stack, the candidates of the
other folds' photos came from networks and statistics that learned from this one).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.base.randomness import fold_in
from src.ensembling.evidence import Corpus, EvidenceMixture
from src.metrics.caption_scores import CaptionScores, score_captions
from src.metrics.competition_score import caption_score
from src.metrics.meteor import CachedMeteor

MIXTURES = (
    EvidenceMixture(1, 0, 0),
    EvidenceMixture(0.5, 0, 0.5),
    EvidenceMixture(0.5, 0.5, 0),
    EvidenceMixture(0.375, 0.125, 0.5),
    EvidenceMixture(0.25, 0.25, 0.5),
    EvidenceMixture(0, 0.5, 0.5),
    EvidenceMixture(0, 1, 0),
)
PARTS = 5
"""Into which the photos of fewer than three folds are divided, so that each part's strategy is chosen on the others."""
JUDGING = 5000
"""Photos whose people judge strategies at most, a random sample: strategies that differ on so many differ visibly."""
_FEWEST = 10
"""Photos with captions below which strategies are not judged."""


@dataclass(frozen=True)
class CaptionStrategy:
    """How captions are chosen."""

    runs: int = 1
    """So many of the runs take part; 0: every photo gets the constant sentence."""
    mixture: EvidenceMixture | None = None
    """Of the evidence; None: the caption is what the first run's search wrote, or the constant sentence."""
    own_candidates_only: bool = False
    """Whether the choice is among what captioners wrote: no neighbour's caption."""

    def __str__(self) -> str:
        if self.mixture is None:
            return "as the search wrote them" if self.runs else "the constant sentence"
        weights = (self.mixture.candidates, self.mixture.neighbours, self.mixture.training)
        names = ("own candidates", "neighbours' captions", "training captions")
        evidence = ", ".join(f"{weight:.4g} {name}" for weight, name in zip(weights, names, strict=True) if weight)
        among = " among its own candidates" if self.own_candidates_only else ""
        return f"MBR{among} under {evidence}"

    def record(self) -> dict[str, Any]:
        """In words, and field by field."""
        return {"strategy": str(self), **dataclasses.asdict(self)}


SEARCH, CONSTANT = CaptionStrategy(), CaptionStrategy(0)


def mbr_strategies(runs: int) -> list[list[CaptionStrategy]]:
    """All of MBR, in sets: of the first run's own candidates, of all its candidates; then the same of all runs."""
    return [
        [CaptionStrategy(count, mixture, own_candidates_only) for mixture in MIXTURES]
        for count in sorted({1, runs})
        for own_candidates_only in (True, False)
    ]


class StrategySelection:
    """Captions of all photos that were left out once, by several strategies, scored against people's."""

    def __init__(self, corpus: Corpus, groups: Sequence[Sequence[int]], meteor: CachedMeteor):
        """groups: the rows of the photos of each fold."""
        self.corpus, self.meteor = corpus, meteor
        self.rows = [row for group in groups for row in group]
        self.captions: dict[CaptionStrategy, list[str]] = {}
        """By the place of the photo in `rows`, here and below."""
        captioned = np.flatnonzero([bool(corpus.references[row]) for row in self.rows])
        self.part = corpus.fold[self.rows]
        """Of each photo; the people of a part do not judge which strategy its photos get."""
        if len(groups) < 3:  # nested cross-validation leaves out two parts
            self.part[captioned] = np.arange(len(captioned)) % PARTS
        self.judging = captioned
        """The photos whose captions by people judge: those that have any, or JUDGING of them."""
        if len(captioned) > JUDGING:
            random = np.random.default_rng(fold_in(corpus.seed, "judging photos"))
            self.judging = np.sort(random.choice(captioned, JUDGING, replace=False))
            print(f"caption strategies are judged on {JUDGING:,} of {len(captioned):,} photos", flush=True)
        self.references = [corpus.references[self.rows[photo]] for photo in self.judging.tolist()]
        self._scores: dict[CaptionStrategy, CaptionScores] = {}

    def add(self, strategy: CaptionStrategy, captions: Sequence[Sequence[str]]) -> None:
        """Take in the captions by a strategy, those of each group of photos."""
        self.captions[strategy] = [caption for group in captions for caption in group]
        if self.references:
            self._scores[strategy] = self.scored(self.captions[strategy])

    def scored(self, captions: Sequence[str]) -> CaptionScores:
        """The scores of the judging photos where all photos have these captions."""
        judged = [captions[photo] for photo in self.judging.tolist()]
        return score_captions(self.references, judged, tokenized=True, meteor=self.meteor)

    def _outside(self, part: int | None) -> np.ndarray:
        """Which of the judging photos are outside a part, or all, bool; none where they are too few to judge."""
        outside = self.part[self.judging] != part  # with None all
        return outside & (outside.sum() >= _FEWEST)

    def _best(self, strategies: Sequence[CaptionStrategy], judging: np.ndarray) -> CaptionStrategy:
        """The best on some of the judging photos, by a mask; the first where there are none."""
        if not judging.any():
            return strategies[0]
        scores = {strategy: self._scores[strategy].subset(judging) for strategy in strategies}
        return max(strategies, key=lambda strategy: caption_score(scores[strategy].totals(), self.corpus.weights))

    def best(self, strategies: Sequence[CaptionStrategy], part: int | None = None) -> CaptionStrategy:
        """The best on the photos outside a part, or on all; the first where there are too few to judge."""
        return self._best(strategies, self._outside(part))

    def best_of_photos(self, strategies: Sequence[CaptionStrategy]) -> list[CaptionStrategy]:
        """Of each photo the strategy that is best on the photos outside its part."""
        of_part = {part: self.best(strategies, part) for part in np.unique(self.part).tolist()}
        return [of_part[part] for part in self.part.tolist()]

    def select(self, sets: Sequence[Sequence[CaptionStrategy]]) -> tuple[CaptionStrategy, list[CaptionStrategy]]:
        """The strategy of test photos, and that of each photo, from one of several sets, each wider than the last.

        More strategies offer more, and overfit more. So a set is judged by what selection within it makes of photos
        that had no say in it (nested cross-validation), and the narrowest of equals is taken.
        """
        of_part = {part: self.best(self._best_set(sets, part), part) for part in np.unique(self.part).tolist()}
        return self.best(self._best_set(sets, None)), [of_part[part] for part in self.part.tolist()]

    def _best_set(self, sets: Sequence[Sequence[CaptionStrategy]], part: int | None) -> Sequence[CaptionStrategy]:
        """The set whose strategies, each part's selected without it, do best outside `part`, or on all photos."""
        part_of, judging = self.part[self.judging], self._outside(part)
        if not judging.any():
            return sets[0]

        def score(strategies: Sequence[CaptionStrategy]) -> float:
            of_parts = []
            for other in np.unique(part_of[judging]).tolist():
                best = self._best(strategies, judging & (part_of != other))
                of_parts.append(self._scores[best].subset(part_of == other))
            return caption_score(CaptionScores.concatenated(of_parts).totals(), self.corpus.weights)

        return max(sets, key=score)

    def captions_by(self, strategies: Sequence[CaptionStrategy]) -> list[str]:
        """Each photo's caption by its strategy."""
        return [self.captions[strategy][photo] for photo, strategy in enumerate(strategies)]

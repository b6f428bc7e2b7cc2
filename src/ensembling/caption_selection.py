"""Which caption is submitted: several ways to choose it, and for each fold the way that was best on the others.

A way is judged by what its captions score against people's, by the competition's formula itself. The captions of a
fold's own photos have no say in it, so that the out-of-fold score is honest (as in any stack, what the other folds'
photos were offered came from networks, statistics and ways that learned from them); test photos get what was best on
all training photos.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from src.ensembling.ablation import AblationStep
from src.ensembling.evidence import Corpus, EvidenceWeights, FoldEvidence, gather_evidence
from src.ensembling.mbr import Choice, pool
from src.ensembling.rewriting import everything, rewrite
from src.ensembling.run_candidates import RunCandidates
from src.ensembling.stacking import TEST
from src.metrics.caption_scores import CaptionScores, score_captions
from src.metrics.competition_score import caption_score
from src.metrics.constant_caption import constant_sentence
from src.metrics.meteor import CachedMeteor

MIXTURES = (EvidenceWeights(1, 0, 0), EvidenceWeights(0.5, 0, 0.5), EvidenceWeights(0.5, 0.5, 0), EvidenceWeights(0.375, 0.125, 0.5),
            EvidenceWeights(0.25, 0.25, 0.5), EvidenceWeights(0, 0.5, 0.5))  # fmt: skip
PARTS = 5
"""Into which a fold that is alone is cut, so that each part's way is chosen on the others."""
_FEWEST = 10
_TOGETHER = 1000  # photos that are rewritten at a time, which bounds memory


@dataclass(frozen=True)
class CaptionStrategy:
    """How captions are chosen."""

    runs: int = 1
    """So many of the runs take part; 0: every photo gets the constant sentence."""
    mixture: EvidenceWeights | None = None
    """Of the evidence; None: the caption is what the first run's search wrote, or the constant sentence."""
    own_candidates_only: bool = False
    """Whether the choice is among what captioners proposed: no neighbour's caption, nor the constant sentence."""
    rewritten: bool = False

    def __str__(self) -> str:
        if self.mixture is None:
            return "as the search wrote them" if self.runs else "the constant sentence"
        shares = (self.mixture.own, self.mixture.neighbours, self.mixture.training)
        names = ("own candidates", "neighbours' captions", "training captions")
        evidence = ", ".join(f"{share:.4g} {name}" for share, name in zip(shares, names, strict=True) if share)
        whose = " of its own candidates" if self.own_candidates_only else ""
        return f"consensus{whose} under {evidence}{'; rewritten' if self.rewritten else ''}"


SEARCH, CONSTANT, REWRITTEN = CaptionStrategy(), CaptionStrategy(0), CaptionStrategy(rewritten=True)


class StrategySelection:
    """The captions of all training photos that were left out once, in several ways, beside people's."""

    def __init__(self, corpus: Corpus, groups: Sequence[FoldEvidence], meteor: CachedMeteor):
        """groups: what is said of the photos of each fold."""
        self.corpus, self.groups, self.meteor = corpus, groups, meteor
        self.rows = [row for group in groups for row in group.rows]
        self.captions: dict[CaptionStrategy, list[str]] = {}
        self.known = np.array([bool(corpus.references[row]) for row in self.rows], bool)
        """Which photos people have written captions of."""
        self.part = corpus.fold[self.rows]
        """The part of each photo, whose people do not judge which way its caption is chosen."""
        if len(groups) == 1:
            self.part[np.flatnonzero(self.known)] = np.arange(self.known.sum()) % PARTS
        self.people = [corpus.references[row] for row in self.rows if corpus.references[row]]
        self._reached: dict[CaptionStrategy, CaptionScores] = {}

    def enter(self, way: CaptionStrategy, captions: Sequence[Sequence[str]]) -> None:
        """Take part with captions, those of each group of photos."""
        self.captions[way] = [caption for several in captions for caption in several]
        if self.people:
            self._reached[way] = self._scored(self.captions[way])

    def _scored(self, captions: Sequence[str]) -> CaptionScores:
        judged = [caption for caption, known in zip(captions, self.known, strict=True) if known]
        return score_captions(self.people, judged, self.meteor, tokenized=True)

    def _score(self, reached: CaptionScores, part: int | None) -> float:
        """On the photos outside a part, or on all; 0 where too few photos tell."""
        judging = self.part[self.known] != part  # with None all
        if judging.sum() < _FEWEST:
            return 0.0
        return caption_score(reached.subset(judging).totals(), self.corpus.weights)

    def winner(self, ways: Sequence[CaptionStrategy], part: int | None = None) -> CaptionStrategy:
        """The best on the photos outside a part, or on all; the first where too few photos tell."""
        return max(ways, key=lambda way: self._score(self._reached[way], part)) if self.people else ways[0]

    def best(self, ways: Sequence[CaptionStrategy]) -> list[CaptionStrategy]:
        """Of each photo the way that is best on the photos outside its part."""
        winners = {part: self.winner(ways, part) for part in np.unique(self.part).tolist()}
        return [winners[part] for part in self.part.tolist()]

    def settled(self, sets: Sequence[Sequence[CaptionStrategy]]) -> tuple[CaptionStrategy, list[CaptionStrategy]]:
        """The way of test photos, and that of each photo, from one of several sets, each wider than the one before.

        More ways offer more, and mislead more. So a set is judged by what `best` makes of it, again on the photos
        outside a part, and the narrowest of equals is taken.
        """
        if not self.people:
            return sets[0][0], [sets[0][0]] * len(self.rows)
        chosen = [self.best(ways) for ways in sets]
        reached = [self._scored(self.written(each)) for each in chosen]

        def place(part: int | None) -> int:
            return max(range(len(sets)), key=lambda number: self._score(reached[number], part))

        places = {part: place(part) for part in np.unique(self.part).tolist()}
        return self.winner(sets[place(None)]), [
            chosen[places[part]][photo] for photo, part in enumerate(self.part.tolist())
        ]

    def written(self, ways: Sequence[CaptionStrategy]) -> list[str]:
        """Each photo's caption by its way."""
        return [self.captions[way][photo] for photo, way in enumerate(ways)]

    def by_group(self, values: list) -> list[list]:
        """A value for each photo, as one list for each group."""
        ends = np.cumsum([len(group.rows) for group in self.groups]).tolist()
        return [values[end - len(group.rows) : end] for group, end in zip(self.groups, ends, strict=True)]


@dataclass(frozen=True)
class SelectedCaptions:
    """The captions chosen for training photos at `rows` and for test photos, both by row, and how."""

    chosen: dict[int, str]
    rows: list[int]
    steps: list[tuple[AblationStep, list[str]]]
    """And the captions of `rows` after each."""
    way: CaptionStrategy
    """Of the test photos."""
    constants: dict[int, str]
    """The constant sentence of the captions outside each fold; of all where it is TEST."""


def select_captions(
    corpus: Corpus,
    runs: Sequence[RunCandidates],
    searched: dict[int, str],
    greedy: dict[int, str],
    meteor: CachedMeteor,
    rewriting: bool = False,
) -> SelectedCaptions:
    """The captions of all training photos that were left out once, and of the readable test photos, tokenised.

    runs: their captions tokenised; the first one's search is where the steps begin. searched, greedy: its captions by
    row, tokenised. rewriting: whether captions are rewritten, too, and may be chosen so.
    """
    constants: dict[int, str] = {}

    def hear(fold: int) -> FoldEvidence:
        learned = [corpus.references[row] for row in corpus.learned(fold)]
        sentence = constant_sentence(learned, corpus.weights, meteor, tokenized=True).sentence
        constants[fold] = sentence
        return gather_evidence(corpus, runs, fold, sentence)

    folds = sorted(runs[0].captions)
    shown = tqdm(folds, desc="captions", unit="fold", leave=False, disable=None)
    contest = StrategySelection(corpus, [hear(fold) for fold in shown], meteor)
    contest.enter(
        CONSTANT, [[constants[fold]] * len(group.rows) for fold, group in zip(folds, contest.groups, strict=True)]
    )
    contest.enter(SEARCH, [[searched[row] for row in group.rows] for group in contest.groups])
    kinds = [
        [CaptionStrategy(count, mixture, own_candidates_only) for mixture in MIXTURES]
        for count in sorted({1, len(runs)})
        for own_candidates_only in (True, False)
    ]
    ways = [way for kind in kinds for way in kind]
    for way in ways:
        contest.enter(way, [group.choice(way.mixture, way.runs, way.own_candidates_only) for group in contest.groups])
    base = contest.best(ways)
    if rewriting:
        both = zip(contest.groups, contest.by_group(base), contest.by_group(contest.written(base)), strict=True)
        contest.enter(REWRITTEN, [_rewritten(*each) for each in both])
    sets = [[SEARCH, CONSTANT]]  # the first of the first where too few photos tell
    for more in [*kinds, *([[REWRITTEN]] if rewriting else [])]:
        sets.append([*sets[-1], *more])
    way, final = contest.settled(sets)
    chosen = dict(zip(contest.rows, contest.written(final), strict=True))
    if any(run.knows(TEST, row) for run in runs for row in np.flatnonzero(corpus.fold == TEST).tolist()):
        chosen |= _of_tests(hear(TEST), way, contest.winner(ways), searched, constants)
    if way == REWRITTEN:
        way = dataclasses.replace(contest.winner(ways), rewritten=True)
    steps = _steps(contest, runs, kinds, way, [greedy.get(row, searched[row]) for row in contest.rows])
    steps.append((AblationStep("chosen on the other folds", True), contest.written(final)))
    return SelectedCaptions(chosen, contest.rows, steps, way, constants)


def _steps(
    contest: StrategySelection,
    runs: Sequence[RunCandidates],
    kinds: Sequence[list[CaptionStrategy]],
    way: CaptionStrategy,
    greedy: list[str],
) -> list[tuple[AblationStep, list[str]]]:
    """What leads to the way of the test photos, and the captions of all that were left out after each step.

    kinds: the ways of the first run, of its own candidates and of all; then those of all runs.
    """
    own, everybody, *_ = kinds
    first, chosen = [*own, *everybody], way.mixture is not None
    steps = [
        (
            AblationStep("the constant sentence of the other folds", way == CONSTANT, side_branch=True),
            contest.captions[CONSTANT],
        ),
        (AblationStep(f"{runs[0].name}, greedy", False), greedy),
        (AblationStep(f"{runs[0].name}, its search", way == SEARCH), contest.captions[SEARCH]),
        (AblationStep("consensus of its own candidates", chosen), contest.written(contest.best(own))),
        (
            AblationStep("+ neighbours' captions", chosen and not way.own_candidates_only),
            contest.written(contest.best(first)),
        ),
    ]
    if len(runs) > 1:
        base = contest.best([way for kind in kinds for way in kind])
        steps.append((AblationStep("+ the other runs", way.runs > 1), contest.written(base)))
    if REWRITTEN in contest.captions:
        steps.append((AblationStep("+ rewriting", way.rewritten, side_branch=True), contest.captions[REWRITTEN]))
    return steps


def _of_tests(
    said: FoldEvidence, way: CaptionStrategy, base: CaptionStrategy, searched: dict[int, str], constants: dict[int, str]
) -> dict[int, str]:
    """The test photos' captions by row."""
    if way == CONSTANT:
        return dict.fromkeys(said.rows, constants[TEST])
    if way == SEARCH:
        return {row: searched[row] for row in said.rows}
    chosen = base if way == REWRITTEN else way
    captions = said.choice(chosen.mixture, chosen.runs, chosen.own_candidates_only)
    if way == REWRITTEN:
        captions = _rewritten(said, [chosen] * len(captions), captions)
    return dict(zip(said.rows, captions, strict=True))


def _rewritten(said: FoldEvidence, ways: Sequence[CaptionStrategy], captions: Sequence[str]) -> list[str]:
    """The captions improved word by word, under the evidence that they were chosen under."""
    out = []
    for begin in range(0, len(captions), _TOGETHER):
        photos = range(begin, min(begin + _TOGETHER, len(captions)))
        pools = [pool(said.voices(photo, ways[photo].mixture, ways[photo].runs)) for photo in photos]
        own = [captions[photo] for photo in photos]
        expected = said.utility.expected([[caption] for caption in own], [everything(each) for each in pools])
        out += rewrite(Choice(own, expected), pools, said.utility).captions
    return out

"""Candidates and evidence for the photos of one fold, all from networks, neighbours and statistics that never saw them.

A photo's candidates are the captions that every run's captioners wrote, those of the nearest training photos in each
run's features, and the constant sentence for a photo without any. The evidence, of what people may have written, is a
mixture of three kinds: the captioners' candidates, the neighbours' captions, and some random training captions, which
are not to be chosen. The expected scores under each kind are computed once; those under any mixture are a weighted sum
of them.

What is gathered for a fold's photos comes from the other folds; what is gathered for test photos comes from all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.base.randomness import fold_in
from src.ensembling.caption_rules import rare_endings
from src.ensembling.expected_score import (
    ExpectedScorer,
    ExpectedScores,
    PseudoReferences,
    concatenated,
    gain_in_corpus,
    mixed,
)
from src.ensembling.mbr import EvidenceSource, RankedCandidates, best_candidates, ranked_candidates
from src.ensembling.regressors import TEST
from src.ensembling.retrieval import nearest_neighbours, neighbour_evidence
from src.ensembling.run_predictions import RunCandidates
from src.settings.schema import CaptionWeights

TRAINING_CAPTIONS = 100
"""Random ones in the evidence."""
_TEMPERATURE = 0.1  # of the neighbours' weights: cosines differ by about that
_CAPTIONS = 500  # compared with the training captions at a time
_PHOTOS = 2000  # whose candidates are compared at a time, which bounds memory
_NOT_WRITABLE = re.compile(r"[<>]|-[lr][rcs]b-")  # would not survive being tokenised again


@dataclass(frozen=True)
class Corpus:
    """What is known of all photos [N]."""

    references: list[list[str]]
    """Tokenised training captions by row; empty for test photos and where there are none."""
    fold: np.ndarray
    """[N], TEST for test photos."""
    weights: CaptionWeights
    """Of the formula."""
    seed: int
    neighbours: int
    """Nearest training photos whose captions are gathered."""

    def training_rows(self, fold: int) -> list[int]:
        """The rows of the captioned training photos outside the fold; of all where it is TEST."""
        return [row for row, group in enumerate(self.references) if group and self.fold[row] not in (fold, TEST)]


@dataclass(frozen=True)
class EvidenceMixture:
    """Weights of the kinds of evidence, which sum to 1."""

    candidates: float
    neighbours: float
    training: float


@dataclass(frozen=True)
class FoldEvidence:
    """Candidates and evidence for the photos of a fold, or for the test photos, at `rows`."""

    rows: list[int]
    candidates: list[list[str]]
    """By photo; the constant sentence is the last."""
    scorer: ExpectedScorer
    """With the statistics of the other folds' captions."""
    run_candidates: list[list[EvidenceSource]]
    """Of each run, by photo."""
    neighbour_captions: list[list[EvidenceSource]]
    """Of the nearest photos in each run's features, by photo."""
    expected: dict[tuple[str, int], ExpectedScores]
    """Of all photos' candidates under one kind of evidence of one run alone."""
    rare_endings: frozenset[str]
    """Words that people hardly ever end a caption with."""

    def select(self, mixture: EvidenceMixture, runs: int, own_candidates_only: bool = False) -> list[str]:
        """The caption of each photo by MBR among the candidates of the first so many runs.

        own_candidates_only: no neighbour's caption. The constant sentence, which is made for the formula and often no
        grammatical one, is chosen only where a captioner wrote it or a photo has nothing else.
        """
        places = self._best(self._under(mixture, runs), self._allowed(runs, own_candidates_only))
        flat = [caption for of_photo in self.candidates for caption in of_photo]
        return [flat[place] for place in places]

    def rank(self, mixture: EvidenceMixture, runs: int, own_candidates_only: bool = False) -> list[RankedCandidates]:
        """The candidates of each photo by what they add to the score beside the choice of `select`.

        Those that `select` may not choose come last.
        """
        expected, allowed = self._under(mixture, runs), self._allowed(runs, own_candidates_only)
        corpus = expected.select(self._best(expected, allowed))
        return ranked_candidates(self.candidates, gain_in_corpus(expected, corpus, self.scorer.weights), allowed)

    def _under(self, mixture: EvidenceMixture, runs: int) -> ExpectedScores:
        """Expected scores of all candidates under the evidence of the first so many runs."""
        weights = {("training", 0): mixture.training}
        for run in range(runs):
            weights |= {("candidates", run): mixture.candidates / runs, ("neighbours", run): mixture.neighbours / runs}
        used = {kind: weight for kind, weight in weights.items() if weight}
        return mixed([self.expected[kind] for kind in used], list(used.values()))

    def _best(self, expected: ExpectedScores, allowed: np.ndarray) -> np.ndarray:
        return best_candidates(expected, [len(of_photo) for of_photo in self.candidates], self.scorer.weights, allowed)

    def _allowed(self, runs: int, own_candidates_only: bool) -> np.ndarray:
        """Which of all candidates the first so many runs bring in, bool."""
        sources = self.run_candidates[:runs] + ([] if own_candidates_only else self.neighbour_captions[:runs])
        flags = []
        for photo, of_photo in enumerate(self.candidates):
            brought_in = {caption for source in sources for caption in source[photo].captions}
            allowed = [caption in brought_in for caption in of_photo]
            allowed[-1] |= not any(allowed)  # the constant sentence where there is nothing else
            flags += allowed
        return np.array(flags, bool)


def gather_evidence(corpus: Corpus, runs: Sequence[RunCandidates], fold: int, sentence: str) -> FoldEvidence:
    """Candidates and evidence for the captioned photos of a fold, or for the readable test photos where it is TEST.

    runs: their captions tokenised. sentence: the constant one of the other folds' captions.
    """
    rows = [
        row
        for row in np.flatnonzero(corpus.fold == fold).tolist()
        if any(run.saw(fold, row) for run in runs) and (fold == TEST or corpus.references[row])
    ]
    training_rows = corpus.training_rows(fold)
    scorer = ExpectedScorer([corpus.references[row] for row in training_rows], corpus.weights)
    captions = [caption for row in training_rows for caption in corpus.references[row] if caption]
    random = np.random.default_rng(fold_in(corpus.seed, "evidence", fold))
    training_captions = random.permutation(captions)[:TRAINING_CAPTIONS].tolist()
    written, near = [], []
    for run in runs:
        texts = [[text for text in run.of(fold, row) if _writable(text)] or [sentence] for row in rows]
        written.append([EvidenceSource(of_photo) for of_photo in texts])
        features = run.features(fold)
        neighbours = nearest_neighbours(features, np.array(rows, int), np.array(training_rows), corpus.neighbours)
        near.append(neighbour_evidence(neighbours, corpus.references, _TEMPERATURE))
    candidates = []
    for sources in zip(*written, *near, strict=True):
        distinct = dict.fromkeys(text for source in sources for text in source.captions if _writable(text))
        distinct.pop(sentence, None)
        candidates.append([*distinct, sentence])
    expected = {("training", 0): _expected_under_all(candidates, training_captions, scorer)}
    for kind, by_run in (("candidates", written), ("neighbours", near)):
        expected |= {(kind, run): _expected(candidates, sources, scorer) for run, sources in enumerate(by_run)}
    return FoldEvidence(rows, candidates, scorer, written, near, expected, rare_endings(captions))


def _writable(text: str) -> bool:
    return bool(text) and not _NOT_WRITABLE.search(text)


def _expected(candidates: list[list[str]], evidence: list[EvidenceSource], scorer: ExpectedScorer) -> ExpectedScores:
    """Of the candidates, each photo's under its own evidence."""
    parts = []
    for begin in range(0, len(candidates), _PHOTOS):
        block = slice(begin, begin + _PHOTOS)
        pairs = zip(candidates[block], evidence[block], strict=True)
        parts.append(scorer.expected(candidates[block], [source.leaving_one_out(texts) for texts, source in pairs]))
    return concatenated(parts)


def _expected_under_all(candidates: list[list[str]], captions: list[str], scorer: ExpectedScorer) -> ExpectedScores:
    """Of the candidates under captions that are the evidence for all photos: each distinct candidate is scored once."""
    index = {text: i for i, text in enumerate(dict.fromkeys(text for texts in candidates for text in texts))}
    distinct = list(index)
    parts = [distinct[i : i + _CAPTIONS] for i in range(0, len(distinct), _CAPTIONS)]
    expected = scorer.expected(parts, [PseudoReferences(captions, np.ones(len(captions)))] * len(parts))
    return expected.select(np.array([index[text] for texts in candidates for text in texts]))

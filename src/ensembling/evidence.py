"""Candidates and evidence for the photos of one fold, all from networks, neighbours and statistics that never saw them.

A photo's candidates are the captions that every run's captioners wrote, those of the nearest training photos by each
run's features, and the constant sentence for a photo without any. The evidence, of what people may have written, is a
mixture of three kinds: the captioners' candidates, the neighbours' captions, and some random training captions, which
are not to be chosen. The expected scores under each kind are computed once; those under any mixture are a weighted sum
of them.

What is gathered for a fold's photos comes from the other folds; what is gathered for test photos comes from all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.base.randomness import fold_in
from src.ensembling.caption_rules import rare_endings
from src.ensembling.evidence_scores import PHOTOS, KeptScores, Mixture, Scoring, score_photos
from src.ensembling.expected_score import ExpectedScorer, gain_in_corpus
from src.ensembling.mbr import EvidenceSource, RankedCandidates, best_candidates, chosen_scores, ranked_candidates
from src.ensembling.regressors import TEST
from src.ensembling.retrieval import NeighbourSearch, neighbour_evidence
from src.ensembling.run_predictions import RunCandidates
from src.settings.schema import CaptionWeights

TRAINING_CAPTIONS = 100
"""Random ones in the evidence."""
TEMPERATURE = 0.1
"""Of the neighbours' weights: cosines differ by about that."""
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
    maximum_words: int
    """Of a neighbour's caption that may be chosen; longer ones are evidence alone."""

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
    weights: CaptionWeights
    """Of the formula."""
    written: np.ndarray
    """Which candidates the captioners of each run wrote, bool [candidates of all photos in a row, runs]."""
    near: np.ndarray
    """Which people wrote of the nearest photos by each run's features, bool [candidates, runs]."""
    scores: KeptScores
    """Of all photos' candidates: under random training captions; then under what the captioners of each run wrote, and
    under the neighbours' captions by each run's features."""
    rare_endings: frozenset[str]
    """Words that people hardly ever end a caption with."""

    def select(self, mixture: EvidenceMixture, runs: int, own_candidates_only: bool = False) -> list[str]:
        """The caption of each photo by MBR among the candidates of the first so many runs.

        own_candidates_only: no neighbour's caption. The constant sentence, which is made for the formula and often no
        grammatical one, is chosen only where a captioner wrote it or a photo has nothing else.
        """
        places = self._best(self._under(mixture, runs), self._allowed(runs, own_candidates_only))
        firsts = np.cumsum([0, *self.scores.sizes[:-1]])
        return [texts[place] for texts, place in zip(self.candidates, (places - firsts).tolist(), strict=True)]

    def rank(self, mixture: EvidenceMixture, runs: int, own_candidates_only: bool = False) -> list[RankedCandidates]:
        """The candidates of each photo by what they add to the score beside the choice of `select`.

        Those that `select` may not choose come last.
        """
        expected, allowed = self._under(mixture, runs), self._allowed(runs, own_candidates_only)
        corpus = chosen_scores(expected, self._best(expected, allowed))
        values = np.concatenate([gain_in_corpus(block, corpus, self.weights) for block in expected])
        return ranked_candidates(self.candidates, values, allowed)

    def _under(self, mixture: EvidenceMixture, runs: int) -> Mixture:
        """Expected scores of all candidates under the evidence of the first so many runs."""
        shares = [[weight / runs] * runs for weight in (mixture.candidates, mixture.neighbours)]
        of_runs = [share + [0.0] * (self.written.shape[1] - runs) for share in shares]
        # by run, as they were always summed
        return self.scores.mixture(mixture.training, [weight for pair in zip(*of_runs, strict=True) for weight in pair])

    def _best(self, expected: Mixture, allowed: np.ndarray) -> np.ndarray:
        return best_candidates(expected, self.scores.sizes, self.weights, allowed)

    def _allowed(self, runs: int, own_candidates_only: bool) -> np.ndarray:
        """Which of all candidates the first so many runs bring in, bool."""
        kinds = [self.written] if own_candidates_only else [self.written, self.near]
        sources = np.hstack([flags[:, :runs] for flags in kinds])
        allowed, sizes = np.asarray(sources.any(axis=1)), np.array(self.scores.sizes, int)
        lasts = np.cumsum(sizes) - 1
        if len(sizes):
            some = np.logical_or.reduceat(allowed, lasts + 1 - sizes)
            allowed[lasts] |= ~some  # the constant sentence where there is nothing else
        return allowed


def gather_evidence(
    corpus: Corpus, runs: Sequence[RunCandidates], fold: int, sentence: str, scratch: Path, scoring: Scoring
) -> FoldEvidence:
    """Candidates and evidence for the captioned photos of a fold, or for the readable test photos where it is TEST.

    runs: their captions tokenised. sentence: the constant one of the other folds' captions. scratch: the folder of
    files without a name that hold the scores. scoring: of `scoring_processes`.
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
    # of their places: numpy would make a table as wide as the longest caption of all
    training_captions = [captions[i] for i in random.permutation(len(captions))[:TRAINING_CAPTIONS].tolist()]
    queries, training = np.array(rows, int), np.array(training_rows)
    searches = [NeighbourSearch(run.features(fold), training, corpus.references) for run in runs]
    neighbours = [search.of_rows(queries, corpus.neighbours) for search in searches]

    def evidence(photos: slice) -> list[list[EvidenceSource]]:
        """What the captioners of each run wrote, and the neighbours' captions by its features, by photo."""
        kinds = []
        for run, near in zip(runs, neighbours, strict=True):
            texts = [[text for text in run.of(fold, row) if _writable(text)] or [sentence] for row in rows[photos]]
            kinds.append([EvidenceSource(of_photo) for of_photo in texts])
            kinds.append(neighbour_evidence(near.some(photos), corpus.references, TEMPERATURE))
        return kinds

    candidates, flags = [], []
    for begin in range(0, len(rows), PHOTOS):
        for sources in zip(*evidence(slice(begin, begin + PHOTOS)), strict=True):
            short = [[text for text in near.captions if _words(text) <= corpus.maximum_words] for near in sources[1::2]]
            ordered = [*(written.captions for written in sources[::2]), *short]
            distinct = dict.fromkeys(text for texts in ordered for text in texts if _writable(text))
            distinct.pop(sentence, None)
            candidates.append([*distinct, sentence])
            by_kind = list(map(frozenset, ordered))
            flags.append(np.array([[text in texts for texts in by_kind] for text in candidates[-1]], bool))
    brought_in = np.concatenate([np.zeros((0, 2 * len(runs)), bool), *flags])
    scores = score_photos(scoring, scorer, candidates, training_captions, evidence, 2 * len(runs), scratch)
    written, near = brought_in[:, : len(runs)], brought_in[:, len(runs) :]
    return FoldEvidence(rows, candidates, corpus.weights, written, near, scores, rare_endings(captions))


def _words(text: str) -> int:
    return text.count(" ") + 1


def _writable(text: str) -> bool:
    return bool(text) and not _NOT_WRITABLE.search(text)

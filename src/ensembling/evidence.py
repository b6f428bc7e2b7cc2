"""All that is said of the photos of one fold by those who never saw them: candidates, and what speaks for each.

A photo's candidates are the captions that every joined run's captioners propose, those of the nearest training photos
in each run's features, and the constant sentence. What speaks for them is, kind by kind, the runs' candidates, the
neighbours' captions, and some random training captions that may not be chosen by that alone. Each kind's expected
scores are computed once; any mixture of kinds is a weighted sum of them. The choice may be left to the candidates.

Whatever is said of a fold's photos comes from networks, neighbours and statistics of the other folds; whatever is said
of test photos comes from all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.base.randomness import fold_in
from src.ensembling.expected_score import ExpectedScorer, ExpectedScores, PseudoReferences, concatenated, mixed
from src.ensembling.mbr import EvidenceSource, pool, select_captions_by_score
from src.ensembling.retrieval import nearest_neighbours, neighbour_evidence
from src.ensembling.run_candidates import RunCandidates
from src.ensembling.stacking import TEST

TRAINING = 100
"""Random training captions in the evidence."""
_TEMPERATURE = 0.1  # of the neighbours' weights: cosines differ by about that
_TOGETHER = 500  # captions compared with the training captions at a time
_PHOTOS = 2000  # whose candidates are compared at a time, which bounds memory
_UNWRITABLE = re.compile(r"[<>]|-[lr][rcs]b-")  # would not survive being tokenised again


@dataclass(frozen=True)
class Corpus:
    """What is known of the photos."""

    references: list[list[str]]
    """Tokenised training captions by row; empty for test photos and where there are none."""
    fold: np.ndarray
    """[N], TEST for test photos."""
    weights: object
    """Of the formula."""
    seed: int
    neighbours: int

    def learned(self, fold: int) -> list[int]:
        """The rows of the captioned training photos outside the fold; of all where it is TEST."""
        return [row for row, group in enumerate(self.references) if group and self.fold[row] not in (fold, TEST)]


@dataclass(frozen=True)
class EvidenceWeights:
    """Shares of the evidence, which sum to 1."""

    own: float
    neighbours: float
    training: float


@dataclass(frozen=True)
class FoldEvidence:
    """What is said of the photos of a fold, or of the test photos, at `rows`."""

    rows: list[int]
    candidates: list[list[str]]
    utility: ExpectedScorer
    """With the statistics of the other folds' captions."""
    training: list[str]
    own: list[list[EvidenceSource]]
    """Each run's candidates, by photo."""
    near: list[list[EvidenceSource]]
    """The captions of the nearest photos in each run's features, by photo."""
    kinds: dict[tuple[str, int], ExpectedScores]
    """What all candidates are expected to score if one kind of evidence alone is right."""

    def choice(self, mixture: EvidenceWeights, runs: int, own_candidates_only: bool = False) -> list[str]:
        """The caption of each photo by consensus of the first so many runs. own_candidates_only: of what captioners proposed."""
        shares = {("training", 0): mixture.training}
        for run in range(runs):
            shares |= {("own", run): mixture.own / runs, ("near", run): mixture.neighbours / runs}
        used = {kind: share for kind, share in shares.items() if share}
        expected = mixed([self.kinds[kind] for kind in used], list(used.values()))
        sizes, allowed = [len(several) for several in self.candidates], self._open(runs, own_candidates_only)
        places = select_captions_by_score(expected, sizes, self.utility.weights, allowed=allowed)
        flat = [caption for several in self.candidates for caption in several]
        return [flat[place] for place in places]

    def _open(self, runs: int, own_candidates_only: bool) -> np.ndarray:
        """Which candidates the first so many runs bring in, bool."""
        flags = []
        for photo, several in enumerate(self.candidates):
            voices = [self.own[run][photo] for run in range(runs)]
            voices += [] if own_candidates_only else [self.near[run][photo] for run in range(runs)]
            said = {caption for voice in voices for caption in voice.captions}
            flags += [caption in said for caption in several[:-1]]
            flags.append(not own_candidates_only or several[-1] in said)  # the constant sentence
        return np.array(flags, bool)

    def voices(self, photo: int, mixture: EvidenceWeights, runs: int) -> list[EvidenceSource]:
        """The voices of one photo with their shares."""
        voices = [EvidenceSource(self.training, mixture.training, candidates=False)]
        for run in range(runs):
            own, near = self.own[run][photo], self.near[run][photo]
            voices.append(EvidenceSource(own.captions, mixture.own / runs))
            voices.append(EvidenceSource(near.captions, mixture.neighbours / runs, near.weights, near.sources))
        return voices


def gather_evidence(corpus: Corpus, runs: Sequence[RunCandidates], fold: int, sentence: str) -> FoldEvidence:
    """What is said of the photos of a fold, or of the readable test photos where it is TEST.

    runs: their captions tokenised. sentence: the constant one of the other folds' captions.
    """
    rows = [row for row in np.flatnonzero(corpus.fold == fold).tolist() if any(run.knows(fold, row) for run in runs)]
    learned = corpus.learned(fold)
    utility = ExpectedScorer([corpus.references[row] for row in learned], corpus.weights)
    everything = [caption for row in learned for caption in corpus.references[row] if caption]
    random = np.random.default_rng(fold_in(corpus.seed, "evidence", fold))
    training = random.permutation(everything)[:TRAINING].tolist()
    own, near = [], []
    for run in runs:
        own.append(
            [EvidenceSource([text for text in run.of(fold, row) if _writable(text)] or [sentence], 1.0) for row in rows]
        )
        found = nearest_neighbours(run.seen(fold), np.array(rows, int), np.array(learned), corpus.neighbours)
        near.append(neighbour_evidence(found, corpus.references, _TEMPERATURE))
    candidates = []
    for voices in zip(*own, *near, strict=True):
        texts = dict.fromkeys(text for voice in voices for text in voice.captions if _writable(text))
        texts.pop(sentence, None)
        candidates.append([*texts, sentence])
    kinds = {("training", 0): _under_training(candidates, training, utility)}
    for name, kind in (("own", own), ("near", near)):
        kinds |= {(name, run): _under(candidates, voices, utility) for run, voices in enumerate(kind)}
    return FoldEvidence(rows, candidates, utility, training, own, near, kinds)


def _writable(text: str) -> bool:
    return bool(text) and not _UNWRITABLE.search(text)


def _under(candidates: list[list[str]], voices: list[EvidenceSource], utility: ExpectedScorer) -> ExpectedScores:
    """Expected scores of the candidates, each photo's under its voice; none of them speaks for itself."""
    parts = []
    for begin in range(0, len(candidates), _PHOTOS):
        pairs = zip(candidates[begin : begin + _PHOTOS], voices[begin : begin + _PHOTOS], strict=True)
        pools = [pool([EvidenceSource(texts), _evidence_alone(voice)]) for texts, voice in pairs]
        parts.append(utility.expected([each.candidates for each in pools], [each.evidence for each in pools]))
    return concatenated(parts)


def _evidence_alone(voice: EvidenceSource) -> EvidenceSource:
    return EvidenceSource(voice.captions, 1.0, voice.weights, voice.sources, candidates=False)


def _under_training(candidates: list[list[str]], training: list[str], utility: ExpectedScorer) -> ExpectedScores:
    """Expected scores of the candidates under captions that are the same for all photos: each is computed once."""
    number = {text: i for i, text in enumerate(dict.fromkeys(text for texts in candidates for text in texts))}
    distinct = list(number)
    parts = [distinct[i : i + _TOGETHER] for i in range(0, len(distinct), _TOGETHER)]
    found = utility.expected(parts, [PseudoReferences(training, np.ones(len(training)))] * len(parts))
    return found.select(np.array([number[text] for texts in candidates for text in texts]))

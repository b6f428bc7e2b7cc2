"""Expected scores of 1,000 photos x 40 candidates x 40 pseudo-references against pycocoevalcap."""

import time
from collections.abc import Iterator

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from src.ensembling.expected_score import ExpectedScorer, PseudoReferences
from src.settings.schema import CaptionWeights

PHOTOS, CANDIDATES, WORDS, TRAINING = 1000, 40, 1000, 20_000
PAIRS = 4000  # scored by pycocoevalcap


def _captions(rng: np.random.Generator, count: int) -> list[str]:
    """Captions of 8 to 14 words by Zipf's law."""
    frequency = 1 / np.arange(1, WORDS + 1)
    lengths = rng.integers(8, 15, size=count)
    words = iter(rng.choice(WORDS, size=lengths.sum(), p=frequency / frequency.sum()).tolist())
    return [" ".join(f"w{next(words)}" for _ in range(length)) for length in lengths]


def _theirs(candidates: list[str], evidence: list[str]) -> float:
    """Seconds per pair, without METEOR."""
    truth, captions = ({i: [text] for i, text in enumerate(side)} for side in (evidence, candidates))
    began = time.perf_counter()
    Bleu(4).compute_score(truth, captions, verbose=0)
    for scorer in (Rouge(), Cider()):
        scorer.compute_score(truth, captions)
    return (time.perf_counter() - began) / len(candidates)


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of all pairs, METEOR's proxy included; those of pycocoevalcap are extrapolated from some pairs."""
    rng = np.random.default_rng(0)
    training = [[caption] for caption in _captions(rng, TRAINING)]
    candidates = [_captions(rng, CANDIDATES) for _ in range(PHOTOS)]
    evidence = [PseudoReferences(group, 1.0 - np.eye(CANDIDATES)) for group in candidates]
    began = time.perf_counter()
    ExpectedScorer(training, CaptionWeights()).expected(candidates, evidence)
    ours = time.perf_counter() - began
    theirs = _theirs(_captions(rng, PAIRS), _captions(rng, PAIRS)) * PHOTOS * CANDIDATES**2
    yield (
        f"{PHOTOS:,} photos x {CANDIDATES} candidates x {CANDIDATES} pseudo-references",
        ours,
        theirs,
        "pycocoevalcap",
    )

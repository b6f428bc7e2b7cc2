"""CIDEr-D rewards of 50 photos x 5 samples against pycocoevalcap's Cider, with token ids for words."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider import Cider

from src.metrics.reward import Reward, RewardWeights

PHOTOS, SAMPLES, REFERENCES, WORDS = 50, 5, 5, 3000
CALLS, CALLS_FOR_MEMORY = 20, 10_000
TRAINING_PHOTOS, TRAINING_CAPTIONS = 54_662, 75_000


def _captions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Captions of 8 to 14 words by Zipf's law and <end>: tokens in a row, and where each caption starts."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, WORDS + 1)
    starts = np.cumsum([0, *rng.integers(9, 16, size=count)])
    tokens = (rng.choice(WORDS, size=starts[-1], p=frequency / frequency.sum()) + 4).astype(np.int32)
    tokens[starts[1:] - 1] = 2
    return tokens, starts


def _padded(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    out = np.zeros((len(starts) - 1, np.diff(starts).max()), np.int64)
    out[np.arange(out.shape[1]) < np.diff(starts)[:, None]] = tokens
    return out


def _sentences(tokens: np.ndarray, starts: np.ndarray) -> list[str]:
    return [" ".join(f"w{token}" for token in one) for one in np.split(tokens, starts[1:-1])]


def _theirs(references: list[str], samples: list[str]) -> np.ndarray:
    """CIDEr-D [photos x samples]: one sample per photo at a time, or each photo would be five documents."""
    truth = {i: references[i * REFERENCES : (i + 1) * REFERENCES] for i in range(PHOTOS)}
    columns = [
        Cider().compute_score(truth, {i: [samples[i * SAMPLES + column]] for i in range(PHOTOS)})[1]
        for column in range(SAMPLES)
    ]
    return np.array(columns).T.ravel()


def _seconds(score, calls: int) -> float:
    """Seconds of `calls` calls, each counted as the median one."""
    score()
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        score()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * calls


def _resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _among_all(weights: RewardWeights) -> Reward:
    """A reward with the captions of a whole competition: five for each scored photo, one or two for the others."""
    sizes = np.ones(TRAINING_PHOTOS, np.int64)
    sizes[:PHOTOS] = REFERENCES
    sizes[PHOTOS : PHOTOS + TRAINING_CAPTIONS - sizes.sum()] += 1
    words = [f"w{token}" for token in range(WORDS + 4)]
    return Reward(*_captions(TRAINING_CAPTIONS, 2), np.cumsum([0, *sizes]), np.arange(TRAINING_PHOTOS), weights, words)


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds where the 50 photos are the corpus, as for pycocoevalcap, and where they belong to a competition."""
    weights, rows = RewardWeights(cider_d=1.0), np.repeat(np.arange(PHOTOS), SAMPLES)
    references, sampled = _captions(PHOTOS * REFERENCES, 0), _captions(PHOTOS * SAMPLES, 1)
    samples, texts = _padded(*sampled), (_sentences(*references), _sentences(*sampled))
    few = Reward(*references, np.arange(PHOTOS + 1) * REFERENCES, np.arange(PHOTOS), weights)
    difference = np.abs(few(rows, samples) - _theirs(*texts)).max()
    ours, theirs = _seconds(lambda: few(rows, samples), CALLS), _seconds(lambda: _theirs(*texts), CALLS)
    before = _resident()
    _seconds(lambda: few(rows, samples), CALLS_FOR_MEMORY)
    grown = (_resident() - before) / 1e6
    what = f"{CALLS} x CIDEr-D of {PHOTOS} photos x {SAMPLES} samples"
    details = f"largest difference {difference:.0e}, {CALLS_FOR_MEMORY:,} calls add {grown:.2f} MB"
    yield what, ours, theirs, f"pycocoevalcap; {details}"
    many = _among_all(weights)
    ours = _seconds(lambda: many(rows, samples), CALLS)
    yield f"the same among {TRAINING_PHOTOS:,} photos", ours, theirs, "pycocoevalcap with the 50 alone"
    formula = _among_all(RewardWeights(cider_d=4, bleu3=1, bleu4=1, rouge_l=1, meteor=3))
    ours = _seconds(lambda: formula(rows, samples), CALLS)
    yield "the same, with the whole formula", ours, theirs, "pycocoevalcap's CIDEr-D of the 50 alone"

"""The psychometric rule of the demo competition: from what was done to a photo to its mean opinion score.

1. Every distortion has impairment units J, which add (see src.demo.distortions).
2. The share of quality that is left is p = 1 / (1 + J), ITU-R BT.500-11, Annex 2.
3. Expected score = LOWEST + (appeal - LOWEST) * p, where the appeal is the score of the undistorted photo.
4. RATERS observers, drawn from a panel, each add their bias (constant over photos) and independent noise; scores are
   clipped to 0..10, and the MOS is their mean. Observer model: Janowski & Pinson, The Accuracy of Subjects in a Quality
   Experiment: A Theoretical Subject Model, IEEE Transactions on Multimedia 17 (2015).
"""

import numpy as np

from src.base.randomness import fold_in
from src.demo.distortions import Distortion

LOWEST = 1.2
"""The expected score of a photo of which nothing is left."""
RATERS = 20
_PANEL = 60
_BIAS, _NOISE = 0.8, 1.1
_LEVELS = (0.4, 1.0)


def impairment(distortions: tuple[Distortion, ...]) -> float:
    """Impairment units of all distortions of a photo together."""
    return float(sum(distortion.impairment for distortion in distortions))


def expected_score(appeal: float, distortions: tuple[Distortion, ...]) -> float:
    """The score, 0 to 10, that infinitely many unbiased raters would give."""
    return LOWEST + (appeal - LOWEST) / (1.0 + impairment(distortions))


def level(distortion: Distortion) -> int:
    """How visible a distortion is: 0 slight, 1 clear, 2 strong."""
    return int(np.searchsorted(_LEVELS, distortion.impairment))


def panel(seed: int) -> np.ndarray:
    """The biases of the raters, float64 [60]; they sum to zero."""
    biases = np.random.default_rng(fold_in(seed, "demo", "panel")).normal(0.0, _BIAS, _PANEL)
    return biases - biases.mean()


def mean_opinion_score(expected: float, biases: np.ndarray, rng: np.random.Generator) -> float:
    """The mean of RATERS noisy scores around `expected`, rounded to four decimals."""
    raters = rng.choice(biases, RATERS, replace=False)
    scores = np.clip(expected + raters + rng.normal(0.0, _NOISE, RATERS), 0.0, 10.0)
    return round(float(scores.mean()), 4)

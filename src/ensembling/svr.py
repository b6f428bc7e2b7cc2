"""Support vector regression of MOS on blocks of features."""

import numpy as np
from sklearn.svm import SVR

COMMITTEE = 4000
"""Photos that one machine learns from at most: its time grows with their square."""
_GAMMA = 0.3  # times the mean squared distance of a photo from the mean one, which is 1


def scaled_blocks(blocks: list[np.ndarray], learned: np.ndarray) -> np.ndarray:
    """Blocks of features [N, F] side by side, each with the same weight in distances whatever its width and scale.

    learned: bool [N], the photos whose spread counts.
    """
    scaled = []
    for block in blocks:
        centred = block - block[learned].mean(0, dtype=np.float64)
        size = np.sqrt(np.square(centred[learned]).sum(1).mean() * len(blocks))
        scaled.append(centred / max(size, 1e-6))
    return np.concatenate(scaled, axis=1)


def standardised(features: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Features [N, F] less the mean and over the deviation of the photos that are `learned`, bool [N]."""
    return (features - features[learned].mean(0)) / (features[learned].std(0) + 1e-6)


def svr(features: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """MOS [wanted photos] by support vector regression with a Gaussian kernel on features as `scaled_blocks` makes them.

    Where there are many photos it is the mean of machines that learn from at most COMMITTEE photos each.
    """
    mean, spread = mos.mean(), mos.std() or 1.0
    parts = -(-len(mos) // COMMITTEE)
    machines = [SVR(C=3.0, gamma=_GAMMA, epsilon=0.2) for _ in range(parts)]
    answers = [
        machine.fit(features[part::parts], (mos[part::parts] - mean) / spread).predict(wanted)
        for part, machine in enumerate(machines)
    ]
    return np.mean(answers, axis=0) * spread + mean

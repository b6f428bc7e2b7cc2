"""Kernel machines on features of many photos: support vector regression and kernel ridge regression.

Time and memory of a kernel machine grow with the square or cube of its photos. Up to KERNEL_PHOTOS it is exact; above,
its work grows with the photos: `svr` is the mean of a few machines, kernel ridge regression has landmarks (Nyström's
method: Williams & Seeger 2001, "Using the Nyström Method to Speed Up Kernel Machines").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from src.base.machine import usable_cores
from src.base.worker_pool import thread_pool

KERNEL_PHOTOS = 4000
"""Photos that one kernel machine is fitted on at most, and landmarks where there are more."""
MACHINES = 5
"""Support vector machines whose mean is taken at most."""
_GAMMA = 0.3
"""Of the Gaussian kernel, for features whose mean squared distance from the mean photo is 1."""
_BLOCK_GAMMA = 0.5
"""Of the Gaussian kernel of a single block, for features whose mean squared distance from the mean photo is 1."""
_ALPHA = 0.05
"""The penalty of kernel ridge regression."""
_FARTHEST = 8.0
"""Standard deviations from the mean photo at which a feature is cut: of an unseen photo it may be anything."""
_BLOCK = 1024  # photos whose features or kernels are held at a time


@dataclass(frozen=True)
class Table:
    """Features of all N photos, which may be mapped from a file."""

    values: np.ndarray
    """[N, F], or [N, V, F] of V views, whose mean counts."""
    share: float = 1.0
    """Of its distances in all squared distances, beside the other tables' shares."""
    standardise: bool = True
    """Whether each feature's spread is made 1."""
    cut: bool = False
    """Whether a standardised feature ends at _FARTHEST, and counts as the mean where it is NaN."""
    blocks: Sequence[range] | None = None
    """Columns that count together as much as any other block's; other columns do not count. None: all are one block."""


class KernelFeatures:
    """Tables side by side, whose parts in squared distances are as their shares whatever their scales, and so are those
    of the blocks of a table.

    Rows are computed as they are asked for, so that no more than a block of them is held.
    """

    def __init__(self, tables: Sequence[Table], fitted: np.ndarray):
        """fitted: rows of the photos whose mean and spread count."""
        total = sum(table.share for table in tables)
        self._columns = [_Column(table, fitted, total) for table in tables]
        self.blocks: list[tuple[slice, float]] = []
        """The columns of each block of each table in a row, and its share: all shares sum to 1."""
        for table, column in zip(tables, self._columns, strict=True):
            for length in column.lengths:
                begin = self.blocks[-1][0].stop if self.blocks else 0
                self.blocks.append((slice(begin, begin + length), table.share / total / len(column.lengths)))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The features of the photos at `rows`: float64 [rows, D]; their squares sum to 1 on average."""
        return np.concatenate([column.rows(rows) for column in self._columns], axis=1)

    def of(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """The same of photos that are not in the tables, by their values in each, [Q, F] or [Q, V, F]."""
        parts = [column.scaled(values) for column, values in zip(self._columns, tables, strict=True)]
        return np.concatenate(parts, axis=1)


class _Column:
    """One table, standardised where it asks for it, then centred and scaled block by block."""

    def __init__(self, table: Table, fitted: np.ndarray, total: float):
        self._table = table
        blocks = table.blocks or [range(table.values.shape[-1])]
        self.lengths = [len(block) for block in blocks]
        self._counting = np.concatenate(blocks) if table.blocks else slice(None)
        self._mean, self._spread, self._farthest = 0.0, 1.0, np.inf
        self._centre, self._size = 0.0, np.ones(1)
        if table.standardise:
            learned = self._statistics(fitted)
            self._mean, self._spread = learned.mean_, np.sqrt(learned.var_) + 1e-6
            self._farthest = _FARTHEST if table.cut else np.inf
        learned = self._statistics(fitted)
        spreads = np.add.reduceat(learned.var_, np.cumsum([0, *self.lengths[:-1]]))
        sizes = np.maximum(np.sqrt(spreads * len(blocks) * total / table.share), 1e-6)
        self._centre, self._size = learned.mean_, np.repeat(sizes, self.lengths)

    def _statistics(self, fitted: np.ndarray) -> StandardScaler:
        scaler = StandardScaler()
        for part in blocks_of(fitted):
            scaler.partial_fit(self.rows(part))
        return scaler

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self.scaled(self._table.values[rows])

    def scaled(self, values: np.ndarray) -> np.ndarray:
        values = values[..., self._counting]
        values = values.mean(1, dtype=np.float64) if values.ndim == 3 else values.astype(np.float64)
        values -= self._mean
        values /= self._spread
        if np.isfinite(self._farthest):
            np.nan_to_num(values, copy=False)
            values.clip(-self._farthest, self._farthest, out=values)
        values -= self._centre
        values /= self._size
        return values


def blocks_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in blocks."""
    return (rows[begin : begin + _BLOCK] for begin in range(0, len(rows), _BLOCK))


def svr(features: KernelFeatures, fitted: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """MOS of the photos at `wanted` by support vector regression with a Gaussian kernel, float64 [wanted].

    fitted: rows of the photos whose mos [fitted] is known. Above KERNEL_PHOTOS of them it is the mean of up to MACHINES
    machines, each fitted on KERNEL_PHOTOS photos at most, of all parts of the table. On 20,000 made-up photos of 296
    features five machines scored 0.743 (four 0.742, two 0.736), one machine on all 0.744 in 15 times the time, and a
    linear SVR on Nyström features 0.738.
    """
    mean, deviation = mos.mean(), mos.std() or 1.0
    parts = -(-len(fitted) // KERNEL_PHOTOS)

    def machine(part: int) -> SVR:
        learn = features.rows(fitted[part::parts])
        return SVR(C=3.0, gamma=_GAMMA, epsilon=0.2).fit(learn, (mos[part::parts] - mean) / deviation)

    with thread_pool(usable_cores()) as pool:
        machines = list(pool.map(machine, range(min(parts, MACHINES))))
    answers = []
    for block in map(features.rows, blocks_of(wanted)):
        answers.append(np.mean([predict_svr(each, block) for each in machines], axis=0))
    return np.concatenate(answers) * deviation + mean


def predict_svr(machine: SVR, features: np.ndarray) -> np.ndarray:
    """As `machine.predict`, by a matrix product: libsvm computes one distance at a time."""
    if not len(machine.support_vectors_):  # all MOS that it was fitted on are within epsilon
        return np.full(len(features), machine.intercept_[0])
    return rbf_kernel(features, machine.support_vectors_, _GAMMA) @ machine.dual_coef_[0] + machine.intercept_[0]


def block_kernel(features: KernelFeatures, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The kernel of the photos at `rows` with those at `columns`, float32 [rows, columns].

    Half of it is the Gaussian kernel of all features, half the mean of those of each block, weighted by its share: what
    it fits is a function of all blocks together and a sum of functions of each (Duvenaud, Nickisch and Rasmussen,
    "Additive Gaussian Processes", NIPS 2011).
    """
    right = np.concatenate([features.rows(block).astype(np.float32) for block in blocks_of(columns)])
    kernel = np.empty((len(rows), len(columns)), np.float32)
    for begin in range(0, len(rows), _BLOCK):
        left = features.rows(rows[begin : begin + _BLOCK]).astype(np.float32)
        kernel[begin : begin + _BLOCK] = _kernel(left, right, features.blocks)
    return kernel


def kernel_ridge(
    kernel: np.ndarray, labelled: np.ndarray, fitted: np.ndarray, mos: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """MOS [wanted] by kernel ridge regression, the mean of a Gaussian process; further arguments as for `svr`.

    kernel: `block_kernel` of all photos with those at `labelled`, in ascending order, of which `fitted` are some. It
    is the same for all folds.
    """
    mean, deviation, columns = mos.mean(), mos.std() or 1.0, np.searchsorted(labelled, fitted)
    # single precision would not do for the linear system, whose condition is that of the kernel
    machine = KernelRidge(alpha=_ALPHA, kernel="precomputed")
    machine.fit(kernel[np.ix_(fitted, columns)].astype(np.float64), (mos - mean) / deviation)
    answers = [machine.predict(kernel[np.ix_(block, columns)]) for block in blocks_of(wanted)]
    return np.concatenate(answers) * deviation + mean


def fit_kernel_ridge(features: np.ndarray, targets: np.ndarray, alpha: float) -> KernelRidge:
    """With a Gaussian kernel of `KernelFeatures` [N, D]. targets: [N] or [N, T]. alpha: the penalty."""
    return KernelRidge(alpha=alpha, kernel="rbf", gamma=_GAMMA).fit(features, targets)


def landmark_features(kernel: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Features whose inner products are Nyström's approximation of the Gaussian kernel: float32 [N, landmarks].

    kernel: `block_kernel` of all N photos with those at `landmarks`; it is overwritten.
    """
    values, vectors = np.linalg.eigh(kernel[landmarks].astype(np.float64))
    # a direction that float32 cannot tell from nothing would be all noise
    root = (vectors / np.sqrt(np.maximum(values, 1e-5 * values[-1]))).astype(np.float32)
    for begin in range(0, len(kernel), _BLOCK):
        kernel[begin : begin + _BLOCK] = kernel[begin : begin + _BLOCK] @ root
    return kernel


def _kernel(left: np.ndarray, right: np.ndarray, blocks: Sequence[tuple[slice, float]]) -> np.ndarray:
    """`block_kernel` of float32 features, float32: sklearn's would be float64 and several times as slow."""
    whole, parts = np.zeros((2, len(left), len(right)), np.float32)
    for columns, share in blocks:
        ours, others = left[:, columns], right[:, columns]
        nearness = ours @ others.T  # half the squared distance, negative
        nearness -= 0.5 * np.square(ours).sum(1)[:, None]
        nearness -= 0.5 * np.square(others).sum(1)
        np.minimum(nearness, 0, out=nearness)
        whole += nearness
        nearness *= 2 * _BLOCK_GAMMA / share
        parts += share * np.exp(nearness, out=nearness)
    whole *= 2 * _GAMMA
    parts += np.exp(whole, out=whole)
    parts /= 2
    return parts


def landmark_ridge(mapped: np.ndarray, fitted: np.ndarray, mos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """As `kernel_ridge`, on `landmark_features` of the photos: normal equations instead of a kernel of all photos."""
    mean, deviation = mos.mean(), mos.std() or 1.0
    normal, right = _ALPHA * np.eye(mapped.shape[1]), np.zeros(mapped.shape[1])
    for begin in range(0, len(fitted), _BLOCK):
        block = mapped[fitted[begin : begin + _BLOCK]]
        normal += block.T @ block
        right += block.T @ ((mos[begin : begin + _BLOCK] - mean) / deviation)
    weights = np.linalg.solve(normal, right).astype(np.float32)
    answers = [mapped[block] @ weights for block in blocks_of(wanted)]
    return np.concatenate(answers).astype(np.float64) * deviation + mean

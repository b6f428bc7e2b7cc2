"""Nearest training photos in a space of features: the captions that people wrote of photos like this one.

Any matrix of features does: a network's pooled ones, a frozen backbone's, or the handcrafted ones. Each feature is
centred and scaled by the training photos before photos are compared by cosine. The candidate that agrees most with the
neighbours' captions is a captioner of its own (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image
Captioning").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.base.machine import usable_cores
from src.base.worker_pool import thread_pool
from src.ensembling.mbr import EvidenceSource

_CELLS = 8_000_000  # similarities that a thread holds at a time
_ROWS, _COLUMNS = 2000, 256  # of features that are read at a time


@dataclass(frozen=True)
class Neighbours:
    """The k nearest training photos of each of Q photos, nearest first."""

    rows: np.ndarray
    """Rows of the training photos, int64 [Q, k]; -1 where there are fewer."""
    similarity: np.ndarray
    """Cosines, float32 [Q, k]; -inf where there are fewer."""

    def some(self, queries: slice) -> "Neighbours":
        """Those of some of the photos."""
        return Neighbours(self.rows[queries], self.similarity[queries])

    def weights(self, temperature: float) -> np.ndarray:
        """How much each neighbour counts, float64 [Q, k], summing to 1: softmax of cosine / temperature.

        A row without any neighbour is 0.
        """
        scaled = self.similarity.astype(np.float64) / temperature
        best = scaled.max(axis=1, keepdims=True, initial=-np.inf)
        weights = np.exp(scaled - np.where(np.isfinite(best), best, 0))
        total = weights.sum(axis=1, keepdims=True)
        return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


class FeatureSpace:
    """Photos as vectors of length 1, from features with mean 0 and deviation 1 over some photos.

    What is not finite becomes the mean. A constant feature becomes 0. Vectors are computed as they are asked for.
    """

    def __init__(self, features: Sequence[np.ndarray], learned: np.ndarray):
        """features: tables [N, D] side by side, which may be mapped from files. learned: rows."""
        self._features = features
        pieces = [(table, begin) for table in features for begin in range(0, table.shape[1], _COLUMNS)]
        statistics = [_statistics(np.asarray(table[learned, at : at + _COLUMNS], np.float32)) for table, at in pieces]
        self._mean, self._factor = (np.concatenate(parts) for parts in zip(*statistics, strict=True))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Of the photos at `rows`, float32 [rows, D]."""
        vectors = np.empty((len(rows), len(self._mean)), np.float32)
        for begin in range(0, len(rows), _ROWS):
            block = slice(begin, begin + _ROWS)
            vectors[block] = self.unit(np.concatenate([table[rows[block]] for table in self._features], axis=1))
        return vectors

    def unit(self, features: np.ndarray) -> np.ndarray:
        """Features [Q, D] of any photos as vectors, float32 [Q, D]."""
        values = np.asarray(features, np.float32)
        scaled = np.where(np.isfinite(values), values - self._mean, 0) * self._factor
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each feature, and 1 over its deviation, of those that are finite, both float32."""
    values = np.where(np.isfinite(values), values, np.nan)
    finite = np.isfinite(values).any(axis=0)
    mean, deviation = np.zeros((2, values.shape[1]), np.float32)
    mean[finite], deviation[finite] = np.nanmean(values[:, finite], axis=0), np.nanstd(values[:, finite], axis=0)
    return mean, np.divide(1, deviation, where=deviation > 0, out=deviation)


class NeighbourSearch:
    """The training photos most like others by cosine: each is compared with every training photo.

    What is held is the training photos' vectors and a block of similarities.
    """

    def __init__(self, features: Sequence[np.ndarray], training: np.ndarray):
        """features: tables [N, D] side by side. training: rows, int [T]."""
        self._training = np.sort(np.asarray(training))
        self._space = FeatureSpace(features, self._training)
        self._vectors = self._space.vectors(self._training).T

    def of_rows(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest of the photos at these rows, of equally near ones the lower row first; none is its own."""
        step = max(1, _CELLS // max(len(self._training), 1))
        blocks = [np.asarray(queries[begin : begin + step]) for begin in range(0, len(queries), step)]
        with thread_pool(usable_cores()) as pool:
            nearest = list(pool.map(lambda rows: self._nearest(self._space.vectors(rows), rows, k), blocks))
        rows, similarity = zip(*nearest, strict=True) if nearest else ([np.empty((0, k), int)], [np.empty((0, k))])
        return Neighbours(np.concatenate(rows), np.concatenate(similarity))

    def of_new(self, features: np.ndarray, k: int) -> Neighbours:
        """The same of photos that are not in the tables, by their features [Q, D]."""
        return Neighbours(*self._nearest(self._space.unit(features), np.full(len(features), -1), k))

    def _nearest(self, vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cosine = vectors @ self._vectors
        cosine[self._training == queries[:, None]] = -np.inf
        rows, similarity = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
        kept = min(k, len(self._training))
        columns, values = _largest(cosine, kept)
        rows[:, :kept], similarity[:, :kept] = np.where(np.isfinite(values), self._training[columns], -1), values
        return rows, similarity


def neighbour_evidence(
    neighbours: Neighbours, captions: Sequence[Sequence[str]], temperature: float
) -> list[EvidenceSource]:
    """What people wrote of each query's neighbours, as evidence: a photo's captions share its weight and are a group.

    captions: tokenised, of all photos, by row.
    """
    sources = []
    for rows, weights in zip(neighbours.rows.tolist(), neighbours.weights(temperature).tolist(), strict=True):
        near = [(row, weight) for row, weight in zip(rows, weights, strict=True) if row >= 0]
        written = [(text, weight / len(captions[row]), row) for row, weight in near for text in captions[row]]
        texts, shares, groups = zip(*written, strict=True) if written else ((), (), ())
        sources.append(EvidenceSource(texts, shares, groups))
    return sources


def _largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the k largest values of each row, largest first, and these."""
    if k < values.shape[1]:
        columns = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    else:
        columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    largest = np.take_along_axis(values, columns, axis=1)
    order = np.argsort(-largest, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(largest, order, axis=1)

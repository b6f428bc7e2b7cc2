"""Nearest training photos: those whose captions are most like what is expected to be written of a photo.

Photos are compared by cosine in the space of captions (see `caption_space`). The candidate that agrees most with the
neighbours' captions is a captioner of its own (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image
Captioning").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from src.base.machine import usable_cores
from src.base.worker_pool import thread_pool
from src.ensembling.caption_space import CaptionSpace
from src.ensembling.mbr import EvidenceSource

_CELLS = 8_000_000  # similarities that a thread holds at a time


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


class NeighbourSearch:
    """The training photos most like others in the space of captions: each is compared with every training photo.

    What is held is the training photos' vectors and a block of similarities.
    """

    def __init__(self, tables: Sequence[np.ndarray], training: np.ndarray, references: Sequence[Sequence[str]]):
        """As for `CaptionSpace`; there may be no training photo, as captions of punctuation alone have no tokens."""
        self._training = np.sort(np.asarray(training))
        self._space = CaptionSpace(tables, self._training, references) if len(training) else None

    def of_rows(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest of the photos at these rows; none is its own."""
        step = max(1, _CELLS // max(len(self._training), 1))
        blocks = [np.asarray(queries[begin : begin + step]) for begin in range(0, len(queries), step)]
        with thread_pool(usable_cores()) as pool:
            nearest = list(pool.map(lambda rows: self._nearest(rows, lambda space: space.of_rows(rows), k), blocks))
        rows, similarity = zip(*nearest, strict=True) if nearest else ([np.empty((0, k), int)], [np.empty((0, k))])
        return Neighbours(np.concatenate(rows), np.concatenate(similarity))

    def of_new(self, features: Sequence[np.ndarray], k: int) -> Neighbours:
        """The same of photos that are not in the tables, by their features [Q, D] or [Q, V, D] for each table."""
        return Neighbours(*self._nearest(np.full(len(features[0]), -1), lambda space: space.of_new(features), k))

    def _nearest(
        self, queries: np.ndarray, vectors: Callable[[CaptionSpace], np.ndarray], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, similarity = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
        if self._space:
            cosine = vectors(self._space) @ self._space.vectors.T
            cosine[self._training == queries[:, None]] = -np.inf
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

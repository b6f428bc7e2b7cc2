"""Expected scores of all photos' candidates under each kind of evidence: computed by several processes, kept in files.

A photo has some 70 candidates, and each has 18 numbers a kind. No more than a block of photos is held: what is computed
goes to a file without a name, which is mapped and ends with the program.
"""

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.base.machine import usable_processes
from src.base.worker_pool import few_ahead, worker_pool
from src.ensembling.expected_score import COLUMNS, ExpectedScorer, ExpectedScores, PseudoReferences, mixed
from src.ensembling.mbr import EvidenceSource

PHOTOS = 2000
"""Whose scores are held at a time."""
_FEW = 200  # photos that are scored in less time than a process takes to start
_PART = 200  # photos that a process scores at a time; of few photos a quarter, so that no process has nothing to do
_CAPTIONS = 500  # compared with the training captions at a time
Scoring = Callable[[ExpectedScorer, Callable, Iterator[tuple]], Iterator[Any]]
"""Maps a function, whose first argument is the scorer, over its other arguments."""
_scorer: tuple[bytes, ExpectedScorer] | None = None  # the last one of this worker process, and what it was read from


class KeptScores:
    """Expected scores of all candidates of some photos under several kinds of evidence, in files."""

    def __init__(self, sizes: Sequence[int], tables: Sequence[np.ndarray], under_all: np.ndarray, place: np.ndarray):
        """sizes: candidates of each photo. tables: of each kind of evidence [candidates, COLUMNS]. under_all: of the
        distinct candidates under the evidence for all photos, and place [candidates]: where each is found there."""
        self.sizes = sizes
        self._tables, self._under_all, self._place = tables, under_all, place

    def mixture(self, under_all: float, weights: Sequence[float]) -> "Mixture":
        """Under the evidence for all photos and that of each kind, with these weights; they sum to 1."""
        return Mixture(self, under_all, weights)

    def block(self, begin: int, end: int, under_all: float, weights: Sequence[float]) -> ExpectedScores:
        """The mixture of some candidates."""
        parts = [(under_all, self._under_all[self._place[begin:end]])] if under_all else []
        parts += [(weight, table[begin:end]) for weight, table in zip(weights, self._tables, strict=True) if weight]
        return mixed([ExpectedScores.of_table(table) for _, table in parts], [weight for weight, _ in parts])


@dataclass(frozen=True)
class Mixture:
    """Expected scores under a mixture of evidence; iterated over, block of photos by block, as often as is asked."""

    _scores: KeptScores
    _under_all: float
    _weights: Sequence[float]

    def __iter__(self) -> Iterator[ExpectedScores]:
        sizes, begin = self._scores.sizes, 0
        for photo in range(0, len(sizes), PHOTOS):
            end = begin + sum(sizes[photo : photo + PHOTOS])
            yield self._scores.block(begin, end, self._under_all, self._weights)
            begin = end


def score_photos(
    scoring: Scoring,
    scorer: ExpectedScorer,
    candidates: list[list[str]],
    captions: list[str],
    evidence: Callable[[slice], list[list[EvidenceSource]]],
    kinds: int,
    scratch: Path,
) -> KeptScores:
    """Score the candidates of all photos, with a bar.

    scorer: learns the candidates' words. captions: the evidence for all photos. evidence: of the photos in a slice, of
    each of so many kinds, by photo. scratch: the folder where what is computed is kept. Equal with any number of cores.
    """
    place = {text: i for i, text in enumerate(dict.fromkeys(text for texts in candidates for text in texts))}
    distinct = list(place)
    scorer.learn(distinct)
    texts = [distinct[begin : begin + _CAPTIONS] for begin in range(0, len(distinct), _CAPTIONS)]
    size = min(_PART, len(candidates) // 4 + 1)
    parts = [slice(begin, begin + size) for begin in range(0, len(candidates), size)]
    under_all, of_kinds = _File(scratch), [_File(scratch) for _ in range(kinds)]
    with tqdm(total=len(texts) + len(parts), desc="expected scores", unit=" parts", leave=False, disable=None) as bar:
        for table in scoring(scorer, _under_all, ((part, captions) for part in texts)):
            under_all.append(table)
            bar.update()
        for tables in scoring(scorer, _under_own, ((candidates[part], evidence(part)) for part in parts)):
            for file, table in zip(of_kinds, tables, strict=True):
                file.append(table)
            bar.update()
    sizes, places = list(map(len, candidates)), np.array([place[text] for texts in candidates for text in texts], int)
    return KeptScores(sizes, [file.mapped() for file in of_kinds], under_all.mapped(), places.astype(np.int32))


@contextlib.contextmanager
def scoring_processes(photos: int) -> Iterator[Scoring]:
    """How `score_photos` scores: by processes where so many photos in all pay for them."""
    processes = min(usable_processes(0.5), photos // _FEW)
    if processes < 2:
        yield lambda scorer, function, arguments: (function(scorer, *each) for each in arguments)
        return
    with worker_pool(processes, "scores captions") as pool:

        def scoring(scorer: ExpectedScorer, function: Callable, arguments: Iterator[tuple]) -> Iterator[Any]:
            pickled = pickle.dumps(scorer)
            yield from few_ahead(pool, _scored, ((pickled, function, *each) for each in arguments), 2 * processes)

        yield scoring


def _scored(pickled: bytes, function: Callable, *arguments: Any) -> Any:
    """What the function returns in a worker process, which reads the same scorer only once."""
    global _scorer
    if _scorer is None or _scorer[0] != pickled:
        _scorer = pickled, pickle.loads(pickled)
    return function(_scorer[1], *arguments)


def _under_all(scorer: ExpectedScorer, candidates: list[str], captions: list[str]) -> np.ndarray:
    """Of the candidates, each under the same evidence: [candidates, COLUMNS]."""
    return scorer.expected([candidates], [PseudoReferences(captions, np.ones(len(captions)))]).as_table()


def _under_own(
    scorer: ExpectedScorer, candidates: list[list[str]], evidence: list[list[EvidenceSource]]
) -> list[np.ndarray]:
    """Of the photos' candidates under each kind of their own evidence: [candidates of all, COLUMNS] a kind."""
    tables = []
    for sources in evidence:
        left_out = [source.leaving_one_out(texts) for texts, source in zip(candidates, sources, strict=True)]
        tables.append(scorer.expected(candidates, left_out).as_table())
    return tables


class _File:
    """Rows of numbers in a file without a name. They are written, not mapped: a full disk is an error that way."""

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as what is mapped)

    def append(self, table: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(table, np.float64).tobytes())

    def mapped(self) -> np.ndarray:
        """All rows, float64 [rows, COLUMNS], to be read."""
        self._file.flush()
        if not self._file.tell():
            return np.empty((0, COLUMNS))
        return np.memmap(self._file, np.float64, "r").reshape(-1, COLUMNS)

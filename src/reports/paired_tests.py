"""Each run tested against the first one, on the photos that both predicted out of fold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from src.data.table import load_table
from src.metrics.caption_scores import CaptionScores, score_captions, tokenize
from src.metrics.meteor import Meteor
from src.metrics.significance import Paired, paired_captions, paired_mos
from src.pipeline.artefacts import outputs_digest
from src.pipeline.runs import cached_folders, marker_of
from src.reports.comparison import EvaluatedRun, recorded


@dataclass(frozen=True)
class RunTests:
    """The tests of a run against the first one; None for a task that one of the two did not learn."""

    mos: Paired | None = None
    caption: Paired | None = None
    refused: str = ""
    """Why there are none, or ""."""


def _photos_folder(root: Path, run: EvaluatedRun) -> Path | None:
    """The photos and labels that a run worked on; None where runs/cache no longer holds them."""
    for folder in cached_folders(root, "photos"):
        if outputs_digest(recorded("preprocess", marker_of(folder))) == run.trained["inputs"].get("photos"):
            return folder
    return None


def _basis(root: Path, run: EvaluatedRun) -> dict[str, str]:
    """What two runs must have in common to be tested; the size or colour of the photos is not of it."""
    folder = _photos_folder(root, run)
    record = recorded("preprocess", marker_of(folder)).record() if folder else None
    unknown = f"unknown of {run.name}"
    return {
        "photos or labels": record["outputs"]["photos.jsonl"]["sha256"] if record else unknown,
        "folds": run.trained["inputs"].get("folds", unknown),
        "metric.weights": str(run.weights),
    }


def paired_tests(
    root: Path, runs: list[EvaluatedRun], resamples: int, seed: int, meteor: Callable[[], Meteor]
) -> list[RunTests]:
    """Tests of each run but the first. meteor: returns the scorer, called only where captions are compared.

    Runs on other photos, labels or folds, or scored with other weights, are not tested.
    """
    first, *others = runs
    bases = [_basis(root, run) for run in runs]
    differing = [[what for what in basis if basis[what] != bases[0][what]] for basis in bases[1:]]
    tested = [first, *(run for run, what in zip(others, differing, strict=True) if not what)]
    refused = [RunTests(refused=f"other {' and other '.join(what)}") for what in differing]
    folder = _photos_folder(root, first)
    if len(tested) == 1 or folder is None:  # without its photos the first run equals no other one
        return refused
    table = load_table(folder / "photos.jsonl").set_index("photo_id")
    scorer = _CaptionScorer(table["captions"], tested, meteor)

    def tests(run: EvaluatedRun) -> RunTests:
        photos = table.loc[first.predictions.index.intersection(run.predictions.index, sort=False)]
        mos = caption = None
        if first.network["mos"] and run.network["mos"]:
            truth = photos["mos"].dropna()
            system, reference = (one.predictions.loc[truth.index, "mos"].to_numpy(float) for one in (run, first))
            mos = paired_mos(system, reference, truth.to_numpy(), resamples, seed)
        if first.network["caption"] and run.network["caption"]:
            captioned = tuple(photos.index[photos["captions"].map(len) > 0])
            scores = (scorer.score(run, captioned), scorer.score(first, captioned))
            caption = paired_captions(*scores, first.weights, resamples, seed)
        return RunTests(mos, caption)

    return [refusal if what else tests(run) for run, what, refusal in zip(others, differing, refused, strict=True)]


class _CaptionScorer:
    """Scores captions of runs; tokenises each once, and scores no run twice on the same photos."""

    def __init__(self, references: pd.Series, runs: list[EvaluatedRun], meteor: Callable[[], Meteor]):
        self.references = references[references.map(len) > 0]
        self.runs, self.meteor = [run for run in runs if run.network["caption"]], meteor
        self.scores: dict[tuple[str, tuple[str, ...]], CaptionScores] = {}

    @cached_property
    def tokens(self) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
        """The references by photo_id, and by the run's name its captions by photo_id."""
        captions = [run.predictions["caption"] for run in self.runs]
        tokens = iter(tokenize([*map(list, self.references), *map(list, captions)]))
        references = {photo: next(tokens) for photo in self.references.index}
        by_run = {run.name: dict(zip(run.predictions.index, next(tokens), strict=True)) for run in self.runs}
        return references, by_run

    def score(self, run: EvaluatedRun, photos: tuple[str, ...]) -> CaptionScores:
        """Of a run's captions of these photos, whose references give the document frequencies of CIDEr-D."""
        if (run.name, photos) not in self.scores:
            references, captions = self.tokens[0], self.tokens[1][run.name]
            truth, candidates = [references[photo] for photo in photos], [captions[photo] for photo in photos]
            self.scores[run.name, photos] = score_captions(truth, candidates, self.meteor(), tokenized=True)
        return self.scores[run.name, photos]

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
from src.pipeline.artefacts import Artefact, outputs_digest
from src.pipeline.runs import cached_folders, marker_of
from src.reports.run_comparison import Run, made


@dataclass(frozen=True)
class Pair:
    """The tests of a run against the first one, None for what one of them did not learn; or why there is none."""

    mos: Paired | None = None
    caption: Paired | None = None
    refused: str = ""


def _photos(root: Path, run: Run) -> Artefact | None:
    """The photos and labels that a run worked on; None where runs/cache no longer holds them."""
    for folder in cached_folders(root, "photos"):
        artefact = made("preprocess", marker_of(folder))
        if outputs_digest(artefact) == run.trained["inputs"].get("photos"):
            return artefact
    return None


def _basis(root: Path, run: Run) -> dict[str, str]:
    """What two runs must share to be tested against each other. The size or colour of the photos is not of it."""
    photos = _photos(root, run)
    unknown = f"unknown of {run.name}"
    return {
        "photos or labels": photos.record()["outputs"]["photos.jsonl"]["sha256"] if photos else unknown,
        "folds": run.trained["inputs"].get("folds", unknown),
        "metric.weights": str(run.weights),
    }


def pairs(root: Path, runs: list[Run], resamples: int, seed: int, meteor: Callable[[], Meteor]) -> list[Pair]:
    """One for each run but the first. meteor: gives the scorer, asked for only where captions are compared.

    Runs on other photos, labels or folds, or scored with other weights, are not tested.
    """
    first, *others = runs
    own = _basis(root, first)
    refused = [[what for what, value in _basis(root, run).items() if value != own[what]] for run in others]
    tested = [first, *(run for run, what in zip(others, refused, strict=True) if not what)]
    if len(tested) == 1:
        return [_refusal(what) for what in refused]
    table = load_table(_photos(root, first).folder / "photos.jsonl").set_index("photo_id")
    scorer = _Scorer(table["captions"], tested, meteor)

    def pair(run: Run) -> Pair:
        photos = table.loc[first.predictions.index.intersection(run.predictions.index, sort=False)]
        mos = caption = None
        if first.report["mos"] and run.report["mos"]:
            truth = photos["mos"].dropna()
            predicted = [one.predictions.loc[truth.index, "mos"].to_numpy(float) for one in (run, first)]
            mos = paired_mos(*predicted, truth.to_numpy(), resamples, seed)
        if first.report["caption"] and run.report["caption"]:
            captioned = tuple(photos.index[photos["captions"].map(len) > 0])
            both = [scorer.score_captions(one, captioned) for one in (run, first)]
            caption = paired_captions(*both, first.weights, resamples, seed)
        return Pair(mos, caption)

    return [_refusal(what) if what else pair(run) for run, what in zip(others, refused, strict=True)]


def _refusal(what: list[str]) -> Pair:
    return Pair(refused=f"other {' and other '.join(what)}")


class _Scorer:
    """Scores the captions of runs. Every caption is tokenised once, and no run scored twice on the same photos."""

    def __init__(self, references: pd.Series, runs: list[Run], meteor: Callable[[], Meteor]):
        self.references, self.runs, self.meteor = references, runs, meteor
        self.known: dict[tuple, CaptionScores] = {}

    @cached_property
    def tokens(self) -> list[dict[str, str | list[str]]]:
        """By photo_id: the references, then each run's captions."""
        known = self.references[self.references.map(len) > 0]
        written = [run.predictions["caption"] for run in self.runs if run.report["caption"]]
        texts = iter(tokenize([*map(list, known), *map(list, written)]))
        references = {photo: next(texts) for photo in known.index}
        return [references, *(dict(zip(captions.index, next(texts), strict=True)) for captions in written)]

    def score_captions(self, run: Run, photos: tuple[str, ...]) -> CaptionScores:
        """Of a run's captions of these photos, whose references give the document frequencies of CIDEr-D."""
        if (run.name, photos) not in self.known:
            captioned = [one.name for one in self.runs if one.report["caption"]]
            references, written = self.tokens[0], self.tokens[1 + captioned.index(run.name)]
            pair = [references[photo] for photo in photos], [written[photo] for photo in photos]
            self.known[run.name, photos] = score_captions(*pair, self.meteor(), tokenized=True)
        return self.known[run.name, photos]

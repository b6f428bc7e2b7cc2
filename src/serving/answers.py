"""Everything that a run says of one photo: MOS with an interval, captions, attention, and training photos like it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.base.errors import InputError
from src.base.files import read_json
from src.ensembling.new_photo import NewPhotoRanking
from src.ensembling.run_predictions import run_predictions
from src.inference.fold_predictions import read_photos, retrieval_features
from src.inference.networks import best_fold
from src.inference.photo_captioner import PhotoCaptioner, attention_of_file, describe_files, folds_to_ask, seen_of_file
from src.pipeline import outputs
from src.pipeline.runs import fold_folder, run_folder, score_path
from src.plots.attention_maps import draw_attention
from src.settings.schema import Settings

COVERED = 0.8
"""Share of photos whose MOS the interval holds."""
LIKE_IT = 300
"""Photos with the nearest predicted MOS, whose errors give the interval."""
SHOWN = 6
"""Nearest training photos that are shown, and runners-up."""


@dataclass(frozen=True)
class TrainingPhoto:
    """One of the training photos of which people wrote most like what is expected of the photo."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    mos: float | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a run says of a photo. None, and empty, where it has learned no such thing."""

    mos: float | None
    interval: tuple[float, float] | None
    """Of the MOS: holds the MOS of COVERED of the training photos that were predicted like this, out of fold."""
    rank: float | None
    """Share of the training photos with a lower MOS."""
    caption: str | None
    expected: float | None
    """The caption's expected score."""
    runners_up: list[tuple[str, float]]
    """Other captions with their expected scores, best first."""
    neighbours: list[TrainingPhoto]


class RunAnswers:
    """A finished run that answers about photos as `src.caption` does, and more.

    Raises InputError where no fold is finished, or the run has not predicted.
    """

    def __init__(self, settings: Settings):
        self.settings, run = settings, run_folder(settings)
        self.captioner = PhotoCaptioner(run, settings)
        photos = outputs.photos(settings).folder
        if not (photos / "photos.jsonl").is_file():
            how = shlex.join(["python", "-m", "src.preprocess", f"run.name={run.name}"])
            raise InputError(f"{photos}: its photos are gone; {how} makes them")
        table, self.training, _ = read_photos(photos)
        self.mos, self.captions = table["mos"].to_numpy(float), table["captions"].tolist()
        self.pixels = np.load(photos / "pixels.npy", mmap_mode="r")
        self.predicted, self.error = self._errors(table["photo_id"])
        self.ranking = None if settings.task == "mos" else self._caption_ranking(run)

    def _errors(self, photo_ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """MOS that the networks predict of rated training photos out of fold, and how much higher the true ones are."""
        if self.settings.task == "caption" or not (outputs.predictions(self.settings).folder / "oof.csv").is_file():
            return np.empty(0), np.empty(0)
        true = self.mos[self.training]
        predicted = run_predictions(self.settings, photo_ids)["mos"].to_numpy(float)[self.training]
        rated = np.isfinite(predicted) & np.isfinite(true)
        return predicted[rated], (true - predicted)[rated]

    def _caption_ranking(self, run: Path) -> NewPhotoRanking:
        folders = {fold: fold_folder(run, fold) for fold in folds_to_ask(run, self.settings.train.fold)}
        training = set(self.training.tolist())
        captions = [texts if row in training else () for row, texts in enumerate(self.captions)]
        best, features = best_fold(folders), None
        predicted = outputs.fold_predictions(self.settings, best).record()
        if predicted and (self.settings.encoder.cached or self.settings.predict.candidates):
            features = retrieval_features(self.settings, [best])[best]
        return NewPhotoRanking(self.settings, captions, features)

    def __call__(self, path: Path) -> Answer:
        """The answer about a photo file. Raises InputError where it is no photo that can be read."""
        ((_, prediction, problem),) = describe_files(self.captioner, [path])
        if prediction is None:
            raise InputError(f"not a photo that can be read: {problem}")
        mos, caption = prediction.mos, prediction.caption
        rated = self.mos[self.training][np.isfinite(self.mos[self.training])]
        rank = None if mos is None or not len(rated) else float((rated < mos).mean())
        ranked: list[tuple[str, float]] = []
        neighbours: list[TrainingPhoto] = []
        if caption is not None and self.ranking:
            rows, ranked = self.ranking(caption, *self.captioner.candidates(seen_of_file(self.captioner, path)))
            neighbours = [self._training_photo(row) for row in rows[:SHOWN]]
        expected = dict(ranked).get(caption or "")
        others = [pair for pair in ranked if pair[0] != caption][:SHOWN]
        return Answer(mos, self._interval(mos), rank, caption, expected, others, neighbours)

    def _interval(self, mos: float | None) -> tuple[float, float] | None:
        if mos is None or not len(self.error):
            return None
        near = np.argsort(np.abs(self.predicted - mos), kind="stable")[:LIKE_IT]
        low, high = np.quantile(self.error[near], [(1 - COVERED) / 2, (1 + COVERED) / 2])
        return float(mos + low), float(mos + high)

    def _training_photo(self, row: int) -> TrainingPhoto:
        pixels = np.asarray(self.pixels[row])
        mos = None if np.isnan(self.mos[row]) else float(self.mos[row])
        return TrainingPhoto(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), mos, self.captions[row])

    def draw_attention(self, path: Path, out: Path) -> bool:
        """Draw where the captioner looks at each word as a PNG; False where it does not attend, or has no words."""
        try:
            maps, photo, box = attention_of_file(self.captioner, path)
        except InputError:
            return False
        if not maps.words:
            return False
        draw_attention(photo, maps.words, maps.weights, maps.layout, box, out, " ".join(maps.words), maps.parts)
        return True


def caption_rows(answers: RunAnswers, paths: list[Path], names: list[str]) -> list[tuple]:
    """(name, mos, caption, problem) of each photo file, as `src.caption` writes them; empty cells where unreadable."""
    rows = []
    for name, (_, prediction, problem) in zip(names, describe_files(answers.captioner, paths), strict=True):
        rows.append((name, prediction and prediction.mos, prediction and prediction.caption, problem))
    return rows


def score_of(settings: Settings) -> str:
    """The scores of a finished run's networks, which answer here, in a few words; "" where it was not evaluated."""
    path = score_path(run_folder(settings))
    scores = read_json(path) if path.is_file() else {"oof": {}}
    report = scores.get("network") or scores["oof"]
    named = {"mos": "MOS", "caption": "captions"}
    return ", ".join(f"{named[key]} {report[key]['score']:.3f}" for key in named if report.get(key))

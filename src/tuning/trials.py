"""What a trial does: train folds with its settings, or decode the captions of a finished run with its settings."""

import contextlib
import dataclasses
import gc
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NoReturn

import numpy as np
import optuna
import torch

from src.base.errors import InputError
from src.base.files import read_json, write_json
from src.inference.caption_candidates import best_captions
from src.inference.teacher_captions import load_teacher_captions
from src.metrics import meteor
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.pipeline import outputs, stages
from src.pipeline.runs import fold_folder, run_folder
from src.settings.keys import changing
from src.settings.load import changed
from src.settings.schema import Settings
from src.settings.yaml_files import ConfigError
from src.training.distributed import Ranks, init_ranks
from src.training.feature_cache import cached_features
from src.training.fit import Fit
from src.training.fold_data import FoldData, read_fold
from src.tuning.judgement import Predictions, ValidationLabels
from src.tuning.study import Claim

SETTINGS = "settings.json"
"""What a fold was trained with, in its folder."""
NETWORK = ("last.pt", "best-mos.pt", "best-caption.pt", "metrics.csv", "timing.csv", "parameters.json", "tensorboard")
"""What a trained fold's folder holds, of which nothing is left to train."""


class _EpochFinished(Exception):
    """A fold has trained one epoch more."""


def _pause(row: dict) -> NoReturn:
    raise _EpochFinished


def _mean_columns(rows: list[list[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def read_trial_fold(settings: Settings, fold: int, ranks: Ranks) -> FoldData:
    """What the fold is trained and validated on, with cached features and a teacher's captions where they are used."""
    photos, vocabulary, folds = (make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds))
    features, captions = cached_features(settings, ranks), load_teacher_captions(settings, fold, ranks)
    data = read_fold(photos, vocabulary, folds, fold, settings.vocabulary.maximum_words, features, captions)
    return data.validated_on(settings.train.validation_photos)


def labels_of(folds: list[FoldData]) -> ValidationLabels:
    """The labels of the folds' validation photos, by row."""
    mos = {row: float(data.labels.mos[row]) for data in folds for row in data.validation_rows.tolist()}
    references = {
        row: list(captions)
        for data in folds
        for row, captions in zip(data.validation_rows.tolist(), data.references, strict=True)
        if captions
    }
    return ValidationLabels({row: value for row, value in mos.items() if not np.isnan(value)}, references)


def _trial_settings(settings: Settings, claim: Claim) -> Settings:
    """The settings with the claim's. Raises ConfigError where these contradict each other."""
    with contextlib.redirect_stderr(io.StringIO()):  # the message is kept with the trial
        return changed(settings, claim.params, f"trial {claim.number}")


class TrainingObjective:
    """Trains the folds of a trial side by side, an epoch of each in turn; its score is that of their best epochs.

    settings: with train.epochs as the trials have it, and nothing to search. folder: where trials leave their
    metrics.csv, and while they run their checkpoints, from which a killed one is resumed; those of trial 0, which has
    the settings as they are, stay until it is judged.
    """

    def __init__(self, settings: Settings, objective: str, folds: list[int], folder: Path):
        self.settings, self.objective, self.folds, self.folder = settings, objective, folds, folder
        if settings.task != "mos":
            # a Java that cannot start ends the search, and fails no trial
            meteor.shared_meteor(outputs.caption_words(settings))
        self.ranks = init_ranks()

    def __call__(self, claim: Claim) -> list[float]:
        """The scores; those of each epoch are reported to the pruner where there is one score only."""
        settings = _trial_settings(self.settings, claim)
        if any(key.split(".")[0] in ("view", "vocabulary") for key in claim.params):
            stages.ensure_inputs(settings, "tune")
        folders = [fold_folder(self.folder / str(claim.number), fold) for fold in self.folds]
        kept = (*NETWORK, SETTINGS) if claim.number == 0 else ("metrics.csv",)
        for folder in folders:
            claim_folder(folder, settings)
        with cleared(folders, kept), logged(folders[0] / "log.txt"):
            fits = []
            for fold, folder in zip(self.folds, folders, strict=True):
                data = read_trial_fold(settings, fold, self.ranks)
                fits.append(Fit(settings, data, fold, folder, self.ranks))
            for epoch in range(1, settings.train.epochs + 1):
                for fit in fits:
                    if fit.train_state.epoch < epoch:
                        with contextlib.suppress(_EpochFinished):
                            fit.run(report=_pause)
                if self.objective != "both":
                    claim.report(epoch, self._epoch_scores(fits, epoch)[0])
            best = [{task: score for task, score in fit.train_state.best.items() if score >= 0} for fit in fits]
            return _mean_columns([self._scores(scores.get("mos"), scores.get("caption")) for scores in best])

    def _scores(self, mos: float | None, caption: float | None) -> list[float]:
        """The scores to maximise. mean: of the MOS score and of the caption score divided by the sum of its weights.

        Raises InputError where the validation photos lack the labels.
        """
        required = {"mos": [mos], "caption": [caption]}.get(self.objective, [mos, caption])
        scores = [score for score in required if score is not None]
        if len(scores) < len(required):
            raise InputError(f"tune.objective={self.objective}: the validation photos have no labels for it")
        if self.objective == "mean":
            return [(scores[0] + scores[1] / sum(dataclasses.astuple(self.settings.metric.weights))) / 2]
        return scores

    def _epoch_scores(self, fits: list[Fit], epoch: int) -> list[float]:
        """The mean over folds of that epoch's scores; of a fold that stopped early, those of its last epoch."""
        rows = [fit.train_state.rows[min(epoch, len(fit.train_state.rows)) - 1] for fit in fits]
        return _mean_columns([self._scores(row.get("val_mos_score"), row.get("val_caption_score")) for row in rows])


def claim_folder(folder: Path, settings: Settings) -> None:
    """Leave what training with these settings left there, for it to go on; clear what others did."""
    if not trained_with(folder, settings):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / SETTINGS, changing(settings))


def trained_with(folder: Path, settings: Settings) -> bool:
    """Whether the fold in the folder was begun with these settings."""
    path = folder / SETTINGS
    return path.is_file() and read_json(path) == changing(settings)


class DecodingObjective:
    """Decodes the validation photos of a run's folds, each with its own fold's network, and scores all together."""

    def __init__(self, settings: Settings, folds: list[int]):
        self.settings, self.folds = settings, folds
        self.ranks = init_ranks()
        self.data: dict[int, FoldData] = {}
        self.references = self.labels(folds).references
        if not self.references:
            raise InputError("--stage decode: the validation photos have no captions to compare with")
        meteor.shared_meteor(outputs.caption_words(settings))  # starts while the first captions are decoded

    def __call__(self, claim: Claim) -> list[float]:
        """The caption score."""
        settings = _trial_settings(self.settings, claim)
        predicted = self.predictions(settings, self.folds, "")
        rows = sorted(predicted)
        captions = [predicted[row][1] for row in rows]
        scores = score_captions([self.references[row] for row in rows], captions)
        return [caption_score(scores.totals(), settings.metric.weights)]

    def labels(self, folds: list[int]) -> ValidationLabels:
        """The captions of these folds' validation photos."""
        self.data |= {fold: read_trial_fold(self.settings, fold, self.ranks) for fold in folds if fold not in self.data}
        return ValidationLabels({}, labels_of([self.data[fold] for fold in folds]).references)

    def predictions(self, settings: Settings, folds: list[int], system: str) -> Predictions:
        """What the run's networks of these folds write of their validation photos with captions, with no MOS."""
        captions: dict[int, str] = {}
        for fold in folds:
            references, folder = self.labels([fold]).references, fold_folder(run_folder(settings), fold)
            rows, labels = sorted(references), self.data[fold].labels
            captions |= best_captions([folder], settings, labels, rows, self.ranks, f"fold {fold}")
        return {row: (np.nan, caption) for row, caption in captions.items()}


@contextlib.contextmanager
def logged(log: Path) -> Iterator[None]:
    """Write to a file what is printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        yield


@contextlib.contextmanager
def cleared(folds: list[Path], kept: tuple[str, ...]) -> Iterator[None]:
    """Leave only the files `kept` of the folds' folders once the block has ended, also by a fault of the trial's own.

    Of a trial that failed only metrics.csv is kept.
    """
    try:
        yield
    except (optuna.TrialPruned, InputError, ConfigError, MemoryError, RuntimeError):
        _clear(folds, ("metrics.csv",))
        raise
    _clear(folds, kept)


def _clear(folds: list[Path], kept: tuple[str, ...]) -> None:
    for path in (path for fold in folds if fold.is_dir() for path in fold.iterdir() if path.name not in kept):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    gc.collect()  # memory of a trial that ran out of it, for the next one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

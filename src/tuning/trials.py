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

import optuna
import torch

from src.base.errors import InputError
from src.inference.caption_candidates import best_captions
from src.inference.teacher_captions import load_teacher_captions
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.meteor import Meteor
from src.pipeline import outputs, stages
from src.pipeline.runs import fold_folder, fold_folders, run_folder, settings_path
from src.settings.load import changed, save
from src.settings.schema import Settings
from src.settings.yaml_files import ConfigError
from src.training.distributed import Ranks, init_ranks
from src.training.feature_cache import cached_features
from src.training.fit import Fit
from src.training.fold_data import FoldData, read_fold
from src.tuning.study import Claim


class _EpochFinished(Exception):
    """A fold has trained one epoch more."""


def _pause(row: dict) -> NoReturn:
    raise _EpochFinished


def _mean_columns(rows: list[list[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def _read_fold(settings: Settings, fold: int, ranks: Ranks) -> FoldData:
    photos, vocabulary, folds = (make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds))
    features, captions = cached_features(settings, ranks), load_teacher_captions(settings, fold, ranks)
    return read_fold(photos, vocabulary, folds, fold, settings.vocabulary.maximum_words, features, captions)


def _trial_settings(settings: Settings, claim: Claim) -> Settings:
    """The settings with the claim's. Raises ConfigError where these contradict each other."""
    with contextlib.redirect_stderr(io.StringIO()):  # the message is kept with the trial
        return changed(settings, claim.params, f"trial {claim.number}")


class TrainingObjective:
    """Trains the folds of a trial side by side, an epoch of each in turn; its score is that of their best epochs.

    settings: with train.epochs as the trials have it, and nothing to search. folder: where trials leave their
    metrics.csv, and while they run their checkpoints, from which a killed one is resumed.
    """

    def __init__(self, settings: Settings, objective: str, folds: list[int], folder: Path, meteor: Meteor | None):
        self.settings, self.objective, self.folds, self.folder, self.meteor = settings, objective, folds, folder, meteor
        self.ranks = init_ranks()

    def __call__(self, claim: Claim) -> list[float]:
        """The scores; those of each epoch are reported to the pruner where there is one score only."""
        settings = _trial_settings(self.settings, claim)
        if any(key.split(".")[0] in ("view", "vocabulary") for key in claim.params):
            stages.ensure_inputs(settings, "tune")
        folder = self.folder / str(claim.number)
        with _cleared(folder), _logged(folder / "log.txt"):
            fits = [self._fit(settings, fold, fold_folder(folder, fold)) for fold in self.folds]
            for epoch in range(1, settings.train.epochs + 1):
                for fit in fits:
                    if fit.train_state.epoch < epoch:
                        with contextlib.suppress(_EpochFinished):
                            fit.run(report=_pause)
                if self.objective != "both":
                    claim.report(epoch, self._epoch_scores(fits, epoch)[0])
            best = [{task: score for task, score in fit.train_state.best.items() if score >= 0} for fit in fits]
            return _mean_columns([self._scores(scores.get("mos"), scores.get("caption")) for scores in best])

    def _fit(self, settings: Settings, fold: int, folder: Path) -> Fit:
        """The fold's training, resumed; begun anew where its folder holds that of other settings."""
        kept, present = settings_path(folder), folder / ".present.yaml"
        save(settings, present)
        if not kept.is_file() or kept.read_bytes() != present.read_bytes():
            shutil.rmtree(folder)
            save(settings, kept)
        return Fit(settings, _read_fold(settings, fold, self.ranks), fold, folder, self.ranks, self.meteor)

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


class DecodingObjective:
    """Decodes the validation photos of a run's folds, each with its own fold's network, and scores all together."""

    def __init__(self, settings: Settings, folds: list[int], meteor: Meteor):
        self.settings, self.meteor = settings, meteor
        self.ranks = init_ranks()
        self.data = {fold: _read_fold(settings, fold, self.ranks) for fold in folds}
        self.references = {
            row: list(captions)
            for data in self.data.values()
            for row, captions in zip(data.validation_rows.tolist(), data.references, strict=True)
            if captions
        }
        if not self.references:
            raise InputError("--stage decode: the validation photos have no captions to compare with")

    def __call__(self, claim: Claim) -> list[float]:
        """The caption score."""
        settings = _trial_settings(self.settings, claim)
        captions: dict[int, str] = {}
        for fold, data in self.data.items():
            folder = fold_folder(run_folder(settings), fold)
            rows = [row for row in data.validation_rows.tolist() if row in self.references]
            captions |= best_captions([folder], settings, data.labels, rows, self.ranks, f"fold {fold}")
        rows = sorted(captions)
        scores = score_captions([self.references[row] for row in rows], [captions[row] for row in rows], self.meteor)
        return [caption_score(scores.totals(), settings.metric.weights)]


@contextlib.contextmanager
def _logged(log: Path) -> Iterator[None]:
    """Write to a file what is printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        yield


@contextlib.contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """Leave only the folds' metrics.csv once the block has ended, also by a fault of the trial's own."""
    try:
        yield
    except (optuna.TrialPruned, InputError, ConfigError, MemoryError, RuntimeError):
        _clear(folder)
        raise
    _clear(folder)


def _clear(folder: Path) -> None:
    for path in [*(path for fold in fold_folders(folder) for path in fold.iterdir()), folder / "log.txt"]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "metrics.csv":
            path.unlink(missing_ok=True)
    gc.collect()  # memory of a trial that ran out of it, for the next one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

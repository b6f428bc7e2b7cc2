"""What a trial does: train folds as always, with other settings; or decode a finished run's captions otherwise."""

import contextlib
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
from src.data.table import load_table
from src.inference.caption_candidates import best_captions
from src.inference.teacher_captions import load_teacher_captions
from src.metrics.caption_scores import score_captions as caption_scores
from src.metrics.competition_score import caption_score
from src.metrics.meteor import Meteor
from src.pipeline import outputs, stages
from src.pipeline.runs import fold_folder, fold_folders, run_folder, settings_path
from src.settings.load import changed, save
from src.settings.schema import CaptionWeights, Settings
from src.settings.yaml_files import ConfigError
from src.training.distributed import Ranks, init_ranks
from src.training.feature_cache import cached_features
from src.training.fit import Fit
from src.training.fold_data import FoldData, read_fold
from src.tuning.study import Claim


class _EpochDone(Exception):
    """A fold has trained one epoch more."""


def _pause(row: dict) -> NoReturn:
    raise _EpochDone


def score_of(objective: str, mos: float | None, caption: float | None, weights: CaptionWeights) -> list[float]:
    """The objective's scores of one epoch. mean: of the MOS score and of the caption score over its weights' sum.

    Raises InputError where the validation photos lack the labels.
    """
    needed = {"mos": [mos], "caption": [caption]}.get(objective, [mos, caption])
    if None in needed:
        raise InputError(f"tune.objective={objective}: the validation photos have no labels for it")
    if objective != "mean":
        return needed
    return [(mos + caption / (weights.cider_d + weights.meteor + weights.bleu + weights.rouge_l)) / 2]


def _data(settings: Settings, fold: int, ranks: Ranks) -> FoldData:
    places = [made(settings).folder for made in (outputs.photos, outputs.vocabulary, outputs.folds)]
    features, taught = cached_features(settings, ranks), load_teacher_captions(settings, fold, ranks)
    return read_fold(*places, fold, settings.vocabulary.maximum_words, features, taught)


def _with(settings: Settings, claim: Claim) -> Settings:
    """The settings with the claim's. Raises ConfigError where these contradict each other."""
    with contextlib.redirect_stderr(io.StringIO()):  # the line stands with the trial
        return changed(settings, claim.params, f"trial {claim.number}")


class Training:
    """Trains the folds of a trial side by side, an epoch of each in turn; the score is that of their best epochs.

    settings: with train.epochs as the trials have it, and nothing to search. folder: where trials leave their
    metrics.csv, and while they last their checkpoints, from which a killed one goes on.
    """

    def __init__(self, settings: Settings, objective: str, folds: list[int], folder: Path, meteor: Meteor | None):
        self.settings, self.objective, self.folds, self.folder, self.meteor = settings, objective, folds, folder, meteor
        self.ranks = init_ranks()

    def __call__(self, claim: Claim) -> list[float]:
        """The scores; each epoch's is reported to the pruner where there is one score only."""
        settings = _with(self.settings, claim)
        if any(key.split(".")[0] in ("view", "vocabulary") for key in claim.params):
            stages.ensure_inputs(settings, "tune")
        folder = self.folder / str(claim.number)
        with _tidy(folder), _quiet(folder / "log.txt"):
            fits = [self._fit(settings, fold, fold_folder(folder, fold)) for fold in self.folds]
            for epoch in range(1, settings.train.epochs + 1):
                for fit in fits:
                    if fit.train_state.epoch < epoch:
                        with contextlib.suppress(_EpochDone):
                            fit.run(report=_pause)
                if self.objective != "both":
                    claim.report(epoch, self._reached(fits, epoch)[0])
            best = [{kind: score for kind, score in fit.train_state.best.items() if score >= 0} for fit in fits]
            scores = [self._score(known.get("mos"), known.get("caption")) for known in best]
        return [fmean(column) for column in zip(*scores, strict=True)]

    def _fit(self, settings: Settings, fold: int, folder: Path) -> Fit:
        """The fold's training, from where it stands; from the start where it stands with other settings."""
        text, present = settings_path(folder), folder / ".present.yaml"
        save(settings, present)
        if not text.is_file() or text.read_bytes() != present.read_bytes():
            shutil.rmtree(folder)
            save(settings, text)
        return Fit(settings, _data(settings, fold, self.ranks), fold, folder, self.ranks, self.meteor)

    def _score(self, mos: float | None, caption: float | None) -> list[float]:
        return score_of(self.objective, mos, caption, self.settings.metric.weights)

    def _reached(self, fits: list[Fit], epoch: int) -> list[float]:
        """The mean over folds of that epoch's scores; of a fold that stopped before, those of its last."""
        rows = [fit.train_state.rows[min(epoch, len(fit.train_state.rows)) - 1] for fit in fits]
        scores = [self._score(row.get("val_mos_score"), row.get("val_caption_score")) for row in rows]
        return [fmean(column) for column in zip(*scores, strict=True)]


class Decoding:
    """Captions of the validation photos of a run's folds, each by its own fold's network, scored together."""

    def __init__(self, settings: Settings, folds: list[int], meteor: Meteor):
        self.settings, self.meteor = settings, meteor
        self.ranks = init_ranks()
        table = load_table(outputs.photos(settings).folder / "photos.jsonl")
        self.data = {fold: _data(settings, fold, self.ranks) for fold in folds}
        self.references = {
            row: list(table["captions"].iloc[row])
            for data in self.data.values()
            for row in data.validation_rows.tolist()
            if table["captions"].iloc[row]
        }
        if not self.references:
            raise InputError("--stage decode: the validation photos have no captions to compare with")

    def __call__(self, claim: Claim) -> list[float]:
        """The caption score."""
        settings, found = _with(self.settings, claim), {}
        for fold, data in self.data.items():
            folder = fold_folder(run_folder(settings), fold)
            rows = [row for row in data.validation_rows.tolist() if row in self.references]
            found |= best_captions([folder], settings, data.labels, rows, self.ranks, f"fold {fold}")
        rows = sorted(found)
        totals = caption_scores([self.references[row] for row in rows], [found[row] for row in rows], self.meteor)
        return [caption_score(totals.totals(), settings.metric.weights)]


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """What is printed goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        yield


@contextlib.contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    """Once the block has ended, well or with a fault of the trial's own, only the folds' metrics.csv are left."""
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
    gc.collect()  # a trial that ran out of memory leaves room for the next
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""The networks that are judged: those of the settings as they are and of the best trial, on folds apart."""

import os
import shutil
import time
from pathlib import Path

from src.base.csv_files import read_rows, write_csv
from src.base.errors import InputError
from src.base.locks import InUse, lock
from src.pipeline import stages
from src.pipeline.runs import best_checkpoint, fold_folder, fold_folders
from src.settings.load import changed
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.distributed import init_ranks
from src.training.fit import Fit
from src.tuning.judgement import Predictions, ValidationLabels, folder_name
from src.tuning.trials import (
    NETWORK,
    SETTINGS,
    claim_folder,
    cleared,
    labels_of,
    logged,
    read_trial_fold,
    trained_with,
)
from src.tuning.worker import POLL_INTERVAL

_PREDICTIONS = "predictions.csv"


class JudgedNetworks:
    """Trains systems to the end on folds of their own. settings: as they are, with nothing to search.

    searched_folds: those that trials were scored on, here trained with another seed. folder: that of the trials.
    """

    def __init__(self, settings: Settings, searched_folds: list[int], folder: Path):
        self.settings, self.searched_folds, self.folder = settings, searched_folds, folder
        self.ranks = init_ranks()

    def labels(self, folds: list[int]) -> ValidationLabels:
        """The labels of these folds' validation photos."""
        return labels_of([read_trial_fold(self.settings, fold, self.ranks) for fold in folds])

    def predictions(self, settings: Settings, folds: list[int], system: str) -> Predictions:
        """What the system's networks of these folds, trained to the end, say of their validation photos.

        A fold that has its predictions.csv is not trained again. Raises InputError where training fails.
        """
        stages.ensure_inputs(settings, "tune")
        predicted = Predictions()
        for fold in folds:
            folder = self._fold_folder(system, fold)
            with lock(folder, "tune", wait=True):
                self._train(settings, fold, folder)
            for cells in (row.cells for row in read_rows(folder / _PREDICTIONS, ("row", "mos", "caption"))):
                predicted[int(cells["row"])] = float(cells["mos"]), cells["caption"]
        return predicted

    def train(self, systems: dict[str, Settings], folds: list[int]) -> None:
        """Train each system on each fold, together with the other workers of the study; returns when all are trained.

        One that fails is left to `predictions`, which raises its error.
        """
        for settings in systems.values():
            stages.ensure_inputs(settings, "tune")
        waiting = [(system, fold) for fold in folds for system in systems]
        while waiting:
            for system, fold in list(waiting):
                folder = self._fold_folder(system, fold)
                try:
                    with lock(folder, "tune", wait=False):
                        self._train(systems[system], fold, folder)
                except InUse:  # by another worker, who may die
                    continue
                except InputError:
                    pass
                waiting.remove((system, fold))
            if waiting:
                time.sleep(POLL_INTERVAL)

    def hand_over(self, winner: Settings, place: Path) -> None:
        """Move the finished networks with the settings that won to the folder `place`, and remove all others."""
        for folder in fold_folders(place):
            shutil.rmtree(folder)
        for folder in sorted(path.parent for path in self.folder.rglob("last.pt")):
            if trained_with(folder, winner):
                (place / folder.name).mkdir(exist_ok=True)
                for path in (path for path in map(folder.joinpath, NETWORK) if path.exists()):
                    keep = shutil.copy2 if path.suffix == ".csv" else os.replace  # a trial's metrics.csv stays with it
                    keep(path, place / folder.name / path.name)
        for path in self.folder.rglob("*.pt"):
            path.unlink()

    def _fold_folder(self, system: str, fold: int) -> Path:
        return fold_folder(self.folder / "judge" / folder_name(system), fold)

    def _train(self, settings: Settings, fold: int, folder: Path) -> None:
        """Train a fold in its folder, which is locked, and write its predictions.csv, unless it is there."""
        seed = settings.run.seed + (fold in self.searched_folds)  # features are cached by the seed of the run
        seeded = changed(settings, {"run.seed": seed}, folder.parent.name)
        claim_folder(folder, seeded)
        if not (folder / _PREDICTIONS).is_file():
            with cleared([folder], (*NETWORK, SETTINGS, _PREDICTIONS)), logged(folder / "log.txt"):
                fit = Fit(seeded, read_trial_fold(settings, fold, self.ranks), fold, folder, self.ranks)
                fit.run()
                rows = [(row, *values) for row, values in _best_predictions(fit).items()]
                write_csv(folder / _PREDICTIONS, ("row", "mos", "caption"), rows)


def _best_predictions(fit: Fit) -> Predictions:
    """What a finished training says of its validation photos, each task at its best epoch."""
    by_task = {}
    for task in fit.settings.tasks:
        path = best_checkpoint(fit.folder, task)
        checkpoint.load_into(fit.validate.task.model, checkpoint.load(path)["model"], path)
        by_task[task] = fit.validate.predictions()
    one = next(iter(by_task.values()))
    mos, captions = by_task.get("mos", one), by_task.get("caption", one)
    return {row: (mos[row][0], captions[row][1]) for row in one}

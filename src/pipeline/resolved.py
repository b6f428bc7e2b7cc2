"""Where the data lie, which folds a run has, and what tune searches: settings with nothing left open."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import read_json
from src.pipeline.runs import planned_settings, run_folder, tuned_settings
from src.settings.former_names import read_saved
from src.settings.keys import defaults, flatten
from src.settings.load import changed
from src.settings.schema import Settings
from src.settings.tuning import DECODING_SPACE, DEMO_SPACE, DEMO_TRIALS, TuneSettings

DATA = Path("data")
DEMO = DATA / "demo"
DECODING_TRIALS = 20
JUDGE_FOLDS = 2


def data_root(settings: Settings) -> Path:
    """The folder of the data: the one given, or data, or the demo where a competition's data/train.csv is absent.

    Raises InputError where outputs would go into the very same folder.
    """
    if settings.data.root is not None:
        root = Path(settings.data.root)
    else:
        root = DATA if settings.data.format != "dacon" or (DATA / "train.csv").exists() else DEMO
    for setting, place in (("run.root", settings.run.root), ("run.submissions", settings.run.submissions)):
        if os.path.realpath(root) == os.path.realpath(place):  # each output would count as a change of the data
            raise InputError(f"{setting}={place} is the folder of the data; choose another place, such as {place}/ours")
    return root


def has_networks(settings: Settings) -> bool:
    """Whether the run trains networks of its own, and does not only join other runs."""
    return settings.ensemble.runs is None or settings.run.name in settings.ensemble.runs


def folds_of(settings: Settings) -> list[int]:
    """The folds that are trained and predicted: the one asked for, or all; none where the run only joins others."""
    if not has_networks(settings):
        return []
    if settings.train.fold is not None:
        return [settings.train.fold]
    return list(range(settings.split.fold_count))


def search_space(settings: Settings) -> dict[str, dict]:
    """What tune searches: tune.space, or the demo's, without what differs from its default."""
    if settings.tune.space is not None:
        return settings.tune.space
    now = flatten(settings)
    return {key: entry for key, entry in DEMO_SPACE.items() if now[key] == defaults()[key]}


@dataclass(frozen=True)
class SearchPlan:
    """What tune.* asks for, with nothing left open; `trials` is 0 where there is no search."""

    trials: int
    space: dict[str, dict]
    objective: str
    pruner: str
    epochs: int
    folds: list[int]
    judge_folds: list[int]
    storage: str | None

    def as_settings(self) -> dict[str, Any]:
        """What the search depends on, by the settings' keys."""
        apart = ("judge_folds", "storage")
        return {f"tune.{key}": value for key, value in dataclasses.asdict(self).items() if key not in apart}


def judge_folds(requested: list[int] | None, searched: list[int], fold_count: int) -> list[int]:
    """tune.judge_folds, where they are requested, else some folds outside those that are searched, or of these."""
    outside = [fold for fold in range(fold_count) if fold not in searched]
    return (outside or searched)[:JUDGE_FOLDS] if requested is None else requested


def search_plan(settings: Settings) -> SearchPlan:
    """The search over what training depends on."""
    tune, space = settings.tune, search_space(settings)
    folds = tune.folds or [0]
    on_demo = settings.data.root is None and data_root(settings) == DEMO
    by_itself = DEMO_TRIALS if on_demo and space and has_networks(settings) else 0
    return SearchPlan(
        trials=by_itself if tune.trials is None else tune.trials,
        space=space,
        objective=tune.objective or ("mean" if settings.task == "both" else settings.task),
        pruner=tune.pruner,
        epochs=tune.epochs or settings.train.epochs,
        folds=folds,
        judge_folds=judge_folds(tune.judge_folds, folds, settings.split.fold_count),
        storage=tune.storage,
    )


def decoding_plan(settings: Settings) -> SearchPlan:
    """The search over decoding.*, on networks as they are."""
    tune, finished = settings.tune, folds_of(settings)
    folds, judging = tune.folds or finished, finished if tune.judge_folds is None else tune.judge_folds
    return SearchPlan(
        trials=DECODING_TRIALS if tune.trials is None else tune.trials,
        space=DECODING_SPACE if tune.space is None else tune.space,
        objective="caption",
        pruner=tune.pruner,
        epochs=settings.train.epochs,
        folds=folds,
        judge_folds=[fold for fold in judging if fold not in folds],
        storage=tune.storage,
    )


LATE = ("train", "predict", "ensemble")
"""The stages that may choose what takes less time where the run is late."""


def planned(settings: Settings) -> Settings:
    """The settings with what plan chose for run.minutes in place of those as they were, and nothing left to plan.

    They are what tune works with. Raises InputError where the plan is still to be made.
    """
    if settings.run.minutes is None:
        return settings
    run, values = run_folder(settings), dict[str, Any]()
    plan = planned_settings(run)
    if not plan.is_file():
        raise InputError(f"{plan} is not there yet; python -m src.plan makes it")
    for file in (plan, *(planned_settings(run, late) for late in LATE)):
        values |= read_json(file)["settings"] if file.is_file() else {}
    return changed(settings, values | {"run.minutes": None, "run.kept": None}, str(plan))


def tuned(settings: Settings) -> Settings:
    """The settings with the plan and the winner of the search in place of what was planned and searched, and nothing
    left of both.

    They are what train and later stages work with. Raises InputError where the plan or search is still to be done.
    """
    settings = planned(settings)
    plan = search_plan(settings)
    if not plan.trials:
        return dataclasses.replace(settings, tune=TuneSettings(trials=0))
    best = tuned_settings(run_folder(settings))
    if not best.is_file():
        raise InputError(f"{best} is not there yet; python -m src.tune makes it, tune.trials=0 does without")
    values = defaults() | read_saved(best)
    winner = {key: values[key] for key in plan.space}
    return dataclasses.replace(changed(settings, winner, str(best)), tune=TuneSettings(trials=0))

"""run.minutes: how long the stages of a run take with given settings, which settings hold the time, and the clock."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base.files import read_json, write_json
from src.pipeline.resolved import judge_folds, planned
from src.pipeline.runs import (
    clock_path,
    ensemble_folder,
    fold_folders,
    marker_of,
    planned_settings,
    predictions_folder,
    run_folder,
)
from src.settings.keys import assemble, flatten
from src.settings.planning import Choice, choices_of
from src.settings.schema import Settings

MARGIN = 0.95
"""Share of run.minutes that a plan may take; where it is late, a stage goes up to the whole."""
SIDE_BY_SIDE = 1.3
"""How much longer a process computes on a core of its own where others compute on the other cores (measured)."""
RANDOM_TRIALS = 5
"""So many trials at most run side by side: that of src.tuning.space, which lies above this room."""
STARTED = "STAGES_STARTED"
"""The environment's name for the moment, by the machine's monotonic clock, at which the run began to count."""
FEATURES = ("encoder.name", "encoder.more_levels", "encoder.long_side")
"""What the time of a photo's features depends on and a plan can change."""
_IMPORTED = time.monotonic()
_NOTE_EVERY = 5.0  # seconds: what a run that is killed loses of its time


@dataclass(frozen=True)
class Costs:
    """Seconds that parts of a run take on this machine; each count of photos is of one fold, but for `photos`."""

    photos: int
    trained: int
    validated: int
    tested: int
    folds: int
    """How many there are in all."""
    jobs: int
    """Processes that compute side by side."""
    gpu: bool
    start: float
    """Of a process, until it computes."""
    features: Mapping[str, float]
    """Of a photo, by `features_key`; 0 where they are there."""
    trained_photo: float
    """In an epoch."""
    validated_photo: float
    """In an epoch."""
    searched_photo: float
    """MOS, and the caption by the settings' own search."""
    other_searches: float
    """Of a photo's other candidates, but for samples."""
    sample: float
    """Of a photo."""
    regressors: float
    """All that the ensemble does for MOS."""
    choice: float
    """The choice among captions of a photo, for each of its candidates and each neighbour."""
    rest: float
    """From evaluate to the end."""
    rewarded_photo: float = 0.0
    """In an epoch of self-critical training; 0: as in any other."""
    shares_cores: bool = True
    """Whether more folds than jobs share the cores evenly, so that none is alone at the end."""


def features_key(flat: Mapping[str, Any]) -> str:
    """The values of FEATURES, as a key."""
    names = [flat["encoder.name"], *flat["encoder.more_levels"]]
    return f"{'+'.join(names)} at {flat['encoder.long_side']}"


def stage_seconds(flat: Mapping[str, Any], costs: Costs) -> dict[str, float]:
    """Seconds of each part that is still to come, for settings by dotted key."""
    folds = set(range(costs.folds)) if flat["train.fold"] is None else {flat["train.fold"]}
    features = costs.photos * costs.features.get(features_key(flat), 0.0)
    training = _training(flat, flat["train.epochs"], costs)
    candidates = flat["predict.candidates"] and flat["task"] != "mos"
    photo = costs.searched_photo
    if candidates:
        photo += costs.other_searches + flat["predict.samples"] * costs.sample
    seconds = {"features": features and features + costs.start}
    handed_over = set[int]()
    if flat["tune.trials"]:
        seconds["search"], handed_over = _search(flat, costs)
    seconds["folds"] = costs.start + _folds(len(folds - handed_over), 2 * costs.start + training, costs)
    predicted = (costs.validated + costs.tested) * photo
    seconds["prediction"] = costs.start + _folds(len(folds), 2 * costs.start + predicted, costs)
    seconds["ensemble"] = costs.start + costs.regressors
    if candidates and flat["ensemble.captions"] == "mbr":
        written, neighbours = 12 + flat["predict.samples"], flat["ensemble.neighbours"]  # 12: greedy and both beams
        compared = len(folds) * costs.validated * (written + neighbours)
        compared += costs.tested * (written * len(folds) + neighbours)
        seconds["ensemble"] += costs.choice * compared
    return seconds | {"evaluation": costs.rest}


def _training(flat: Mapping[str, Any], epochs: int, costs: Costs) -> float:
    """Seconds of so many epochs of a fold."""
    first = flat["self_critical.from_epoch"]
    rewarded = 0 if first is None else max(0, epochs - first)
    trained = (epochs - rewarded) * costs.trained_photo + rewarded * (costs.rewarded_photo or costs.trained_photo)
    watched = min(costs.validated, flat["train.validation_photos"])
    return costs.trained * trained + epochs * watched * costs.validated_photo


def _search(flat: Mapping[str, Any], costs: Costs) -> tuple[float, set[int]]:
    """Seconds of the trials and of judging the best one, and the folds of which it leaves nothing to train.

    They are those of the dearer case, that this trial wins: the networks of the settings as they are were in vain.
    """
    trials, searched = flat["tune.trials"], flat["tune.folds"] or [0]
    judged = judge_folds(flat["tune.judge_folds"], searched, costs.folds)
    if flat["tune.objective"] == "both":
        judged = []
    trial = costs.start + len(searched) * _training(flat, flat["tune.epochs"] or flat["train.epochs"], costs)
    judging = costs.start + _training(flat, flat["train.epochs"], costs)
    jobs = 1 if costs.gpu else costs.jobs  # the workers of tune share one GPU
    if trials <= RANDOM_TRIALS and flat["tune.pruner"] == "none":
        searching = jobs = min(jobs, trials)
    else:
        searching = 1
    seconds = _waves(trials, trial, searching, costs) + _waves(2 * len(judged), judging, jobs, costs)
    return 2 * costs.start + seconds, set(judged) - set(searched)  # in a fold of both with another seed


def _waves(count: int, seconds: float, jobs: int, costs: Costs) -> float:
    """Seconds of so many equal processes, as many at a time as there are jobs."""
    full, alone = divmod(count, jobs)
    slower = 1.0 if costs.gpu or jobs == 1 else SIDE_BY_SIDE
    return seconds * (full * slower + (0 if not alone else 1.0 if alone == 1 else slower))


def _folds(count: int, seconds: float, costs: Costs) -> float:
    """Seconds of so many folds."""
    if costs.gpu or not costs.shares_cores or not 1 < costs.jobs < count:
        return _waves(count, seconds, costs.jobs, costs)
    return seconds * SIDE_BY_SIDE * count / costs.jobs


def best_plan(
    plans: Sequence[Sequence[Choice]], flat: Mapping[str, Any], costs: Costs, seconds: float
) -> tuple[list[Choice], dict[str, float], bool]:
    """The first plan that takes no more than so many seconds, else the shortest; its parts, and whether it fits.

    plans: the best first; one that contradicts the settings is left out. flat: the settings as they are, by dotted key.
    """
    shortest: tuple[list[Choice], dict[str, float]] | None = None
    for plan in plans:
        parts = stage_seconds(dict(flat) | values_of(plan), costs)
        total = sum(parts.values())
        shorter = shortest is None or total < sum(shortest[1].values())
        if (shorter or total <= seconds) and consistent(flat, plan):
            shortest = list(plan), parts
            if total <= seconds:
                return *shortest, True
    assert shortest is not None
    return *shortest, False


def consistent(flat: Mapping[str, Any], plan: Sequence[Choice]) -> bool:
    """Whether settings by dotted key go together with a plan's choices: one that is given may contradict a choice."""
    try:
        assemble(dict(flat) | values_of(plan))
    except ValueError:
        return False
    return True


def values_of(plan: Sequence[Choice]) -> dict[str, Any]:
    """The settings of a plan's choices."""
    return {key: value for choice in plan for key, value in choice.values.items()}


def spent() -> float:
    """Seconds that the run has worked: since it was begun, without pauses."""
    return time.monotonic() - float(os.environ.get(STARTED, _IMPORTED))


def started_environment() -> dict[str, str]:
    """What tells a process that this one starts when the run began."""
    return {STARTED: os.environ.get(STARTED, repr(_IMPORTED))}


@contextlib.contextmanager
def clock(settings: Settings, fresh: bool) -> Iterator[None]:
    """Count the time of a run in the block, on from where it was cut off; noted every few seconds."""
    if settings.run.minutes is None:
        yield
        return
    path, ended = clock_path(run_folder(settings)), threading.Event()
    before = read_json(path)["seconds"] if path.is_file() and not fresh else 0.0
    os.environ[STARTED] = repr(time.monotonic() - before)

    def note() -> None:
        while not ended.wait(_NOTE_EVERY):
            with contextlib.suppress(OSError):  # of a place that cannot be written the stages say so
                write_json(path, {"seconds": round(spent(), 1)})

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
        ended.set()
        thread.join()  # a late note would bring the file back
        path.unlink(missing_ok=True)
    finally:
        ended.set()


def _within(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in keys}


_STAGE_PARTS = {
    "train": ("folds", "prediction", "ensemble", "evaluation"),
    "predict": ("prediction", "ensemble", "evaluation"),
    "ensemble": ("ensemble", "evaluation"),
}
_OPEN = {
    "train": {"train.epochs", "predict.samples", "predict.candidates", "ensemble.captions", "ensemble.neighbours"},
    "predict": {"predict.samples", "predict.candidates", "ensemble.captions", "ensemble.neighbours"},
    "ensemble": {"ensemble.captions", "ensemble.neighbours"},
}
"""What a stage that begins late may still choose."""


def _begun(run: Path, stage: str) -> bool:
    if stage == "train":
        return any(any(folder.glob("*.pt")) for folder in fold_folders(run))
    done = {"predict": fold_folders(predictions_folder(run)), "ensemble": [ensemble_folder(run)]}[stage]
    return any(marker_of(folder).is_file() for folder in done)


def keep_pace(settings: Settings, stage: str, fresh: bool = False) -> Settings:
    """The settings, as they are given, after a choice of what takes less time where the run is late.

    A stage that has begun leaves no choice, unless it starts over (`fresh`). What is chosen is laid over the plan by
    `planned`.
    """
    run = run_folder(settings)
    late = planned_settings(run, stage)
    if settings.run.minutes is None or late.is_file() or not fresh and _begun(run, stage):
        return settings
    plan, flat = read_json(planned_settings(run)), flatten(planned(settings))
    if stage == "train" and flat["tune.trials"]:
        return settings  # its folds may be trained already
    costs, kept = Costs(**plan["costs"]), set(settings.run.kept or [])
    left = settings.run.minutes * 60 - spent()
    coming = [part for part in plan["seconds"] if part in _STAGE_PARTS[stage]]
    slowness = spent() / (plan["spent"] + sum(plan["seconds"].values()) - sum(plan["seconds"][p] for p in coming))

    def needed(choices: Sequence[Choice]) -> float:
        parts = stage_seconds(flat | values_of(choices), costs)
        return sum(parts[part] for part in coming) * max(1.0, slowness)

    if needed([]) <= left:
        return settings
    sets = [
        [
            Choice(c.loss, c.name, values)
            for c in choices
            if (values := _within(c.values, _OPEN[stage])) and not values.keys() & kept
        ]
        for choices in choices_of(flat)
    ]
    late_choices: list[Choice] = []
    for choices in reversed(sets):  # the choice among captions costs the least score
        for choice in choices:
            with_choice = [*(other for other in late_choices if other not in choices), choice]
            less = needed(late_choices) > left and needed(with_choice) < needed(late_choices)
            if less and consistent(flat, with_choice):
                late_choices = with_choice
    if not late_choices:
        return settings
    write_json(late, {"settings": values_of(late_choices)})
    names = " and ".join(choice.name for choice in late_choices)
    print(f"{stage}: late: {left / 60:.1f} min are left, {needed([]) / 60:.1f} needed; leaves out {names}", flush=True)
    return settings

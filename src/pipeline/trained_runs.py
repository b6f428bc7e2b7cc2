"""Finished runs by their names: with which settings each was trained and predicted."""

import argparse
import dataclasses
import difflib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.base.errors import InputError
from src.base.files import read_json
from src.pipeline.runs import folds_named, marker_of, predictions_folder, trained_runs, trained_settings
from src.settings.former_names import read_saved, translated
from src.settings.keys import flatten
from src.settings.load import AddOptions, as_arguments, build, changed, load, narrow_search, read_arguments
from src.settings.schema import Settings
from src.settings.tuning import DECODING_SPACE
from src.settings.yaml_files import as_text, refuse

_WHICH = ("run.name", "run.root", "train.fold")
_NETWORK = ("task", "view", "encoder", "mos_head", "decoder")
"""Settings, or groups of them, that a trained network fixes."""


def settings_file(root: Path, name: str) -> Path:
    """Where the settings that a run was trained with are written. Raises InputError where there is no such run."""
    saved = trained_settings(root / name)
    if not saved:
        runs = trained_runs(root)
        near = difflib.get_close_matches(name.rstrip("/").rpartition("/")[2], runs, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(runs) or 'none yet'}"
        raise InputError(f"{name}: no such run in {root}; {hint}")
    return saved[0]


def run_settings(settings: Settings, name: str) -> Settings:
    """The settings of a finished run: those it was trained with, and then predicted with.

    settings: of the run that joins it, whose run.root, ensemble.* and, where given, data.root count. Raises InputError
    where there is no such run, or it has not predicted.
    """
    saved = settings_file(Path(settings.run.root), name)
    marker = marker_of(predictions_folder(Path(settings.run.root, name)))
    if not marker.is_file():
        how = shlex.join(["python", "-m", "src.predict", "--config", str(saved), f"run.name={name}"])
        raise InputError(f"{name}: not predicted yet; {how} does it")
    record = read_json(marker)
    folds = folds_named(record["inputs"])
    which = {"train.fold": folds[0] if len(folds) == 1 else None, "run.root": settings.run.root, "run.name": name}
    trained = read_saved(saved)
    predicted = {key: value for key, value in translated(record["settings"]).items() if key in flatten(settings)}
    joining = {key: value for key, value in flatten(settings).items() if key.startswith("ensemble.")}
    joining["ensemble.encoders"] = []  # they see the photos of the run that joins
    if settings.data.root is not None:  # the data may have been moved since
        joining["data.root"] = settings.data.root
    return changed(Settings(), trained | predicted | which | joining, str(saved))


def joined(settings: Settings) -> list[Settings]:
    """The settings of every run that is joined: those of this run itself are as given.

    Raises InputError as `run_settings`, and where the runs would be joined in the folder of another trained run.
    """
    names, folder = settings.ensemble.runs or [settings.run.name], Path(settings.run.root, settings.run.name)
    if folder.name not in names and trained_settings(folder):
        raise InputError(f"{folder} is a trained run; join {', '.join(names)} under another name with run.name=NAME")
    return [settings if name == settings.run.name else run_settings(settings, name) for name in names]


def load_joining(
    argv: Sequence[str] | None, stage: str, description: str, options: AddOptions
) -> tuple[Settings, argparse.Namespace]:
    """As `load`, for a stage that takes names of runs (`runs` among its options) as ensemble.runs.

    Where they are given, the settings are those of the first of them (see `run_settings`) where the command line does
    not say otherwise; the run's name is all of theirs, and so is the task. A run that is named alone is as without.
    """
    settings, arguments = load(argv, stage, description, options)
    if not arguments.runs:
        return settings, arguments
    saved = [settings_file(Path(settings.run.root), name) for name in arguments.runs]
    tasks = sorted({read_saved(path).get("task", "both") for path in saved})
    all_of_them = [f"run.name={'+'.join(arguments.runs)}", f"task={tasks[0] if len(tasks) == 1 else 'both'}"]
    first, line = as_arguments(run_settings(settings, arguments.runs[0])), sys.argv[1:] if argv is None else argv
    named = f"ensemble.runs={json.dumps(arguments.runs)}"
    settings, arguments = load([*first, *all_of_them, *line, named], stage, description, options)
    if settings.ensemble.runs == [settings.run.name]:
        settings = dataclasses.replace(settings, ensemble=dataclasses.replace(settings.ensemble, runs=None))
    return settings, arguments


def load_run(
    argv: Sequence[str] | None, stage: str, description: str = "", options: AddOptions | None = None
) -> tuple[Settings, argparse.Namespace]:
    """As `load`, for a stage that uses a trained run: the defaults are what it was trained with.

    --config only names the run and says how to tune. Refuses, with one line, settings of a network other than the
    trained one.
    """
    arguments, default = read_arguments(argv, stage, description, options), Settings()
    config = [
        entry for entry in arguments.name + arguments.config if entry[0] in _WHICH or entry[0].startswith("tune.")
    ]
    which = {key: text for key, text, _ in config + arguments.line}
    name, fold = which.get("run.name", default.run.name), which.get("train.fold", "*")
    saved = trained_settings(Path(which.get("run.root", default.run.root), name), fold)
    trained = read_saved(saved[0]) if saved else {}
    defaults = {key: as_text(value) for key, value in flatten(default).items()}
    differing = [(key, text, str(saved[0])) for key, text in trained.items() if text != defaults.get(key)]
    differing = [entry for entry in differing if entry[0] not in _WHICH and not entry[0].startswith("tune.")]
    settings = narrow_search(build([*differing, *config, *arguments.line]), DECODING_SPACE, arguments.line)
    for key, text, origin in arguments.line if saved else []:
        before = trained.get(key, defaults[key])
        if key.split(".")[0] in _NETWORK and as_text(flatten(settings)[key]) != before:
            refuse(f"{origin}: {key}={text}: the run {name} was trained with {before}; leave it out")
    return settings, arguments.options

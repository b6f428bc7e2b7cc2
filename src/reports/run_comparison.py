"""One row of figures per run, from the files that its stages wrote."""

import csv
import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import pandas as pd

from src.base.errors import InputError
from src.base.files import read_json
from src.ensembling.tables import read_predictions
from src.pipeline.artefacts import Artefact, outdated, outputs_digest
from src.pipeline.runs import (
    evaluated_runs,
    fold_folder,
    fold_folders,
    folds_named,
    marker_of,
    predictions_folder,
    score_marker,
    score_path,
    trained_settings,
)
from src.settings.schema import CaptionWeights
from src.settings.yaml_files import CONFIGS

_WEIGHTS = "metric.weights."
_PARTS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "wer")


@dataclass(frozen=True)
class Run:
    """A run that was evaluated. `report`: what evaluate found out of fold. `folds`: the folders of its folds."""

    name: str
    folder: Path
    report: dict
    weights: CaptionWeights
    folds: tuple[Path, ...]

    @cached_property
    def trained(self) -> dict:
        """The marker of the first fold: the settings and inputs that it was trained with. Empty without folds."""
        return read_json(marker_of(self.folds[0])) if self.folds else {"settings": {}, "inputs": {}}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The out-of-fold predictions by photo_id."""
        return read_predictions(predictions_folder(self.folder) / "oof.csv").set_index("photo_id")


def made(stage: str, marker: Path, **upstream: str) -> Artefact:
    """What a stage made, as its marker says, with the present hashes of what it was made from."""
    record = read_json(marker) if marker.is_file() else {"settings": {}, "inputs": {}}
    return Artefact(stage, marker.parent, marker, record["settings"], record["inputs"] | upstream)


def open_run(root: Path, name: str) -> Run:
    """A run by its name. Raises InputError where there is none, or what it predicts was not evaluated."""
    folder = root / name
    if not fold_folders(folder) and not predictions_folder(folder).is_dir():
        raise InputError(_unknown(root, name))
    predicted = made("predict", marker_of(predictions_folder(folder)))
    folds = [fold_folder(folder, fold) for fold in folds_named(predicted.inputs)]
    hashes = {fold.name: outputs_digest(made("train", marker_of(fold))) for fold in folds}
    predicted = made("predict", marker_of(predictions_folder(folder)), **hashes)
    scored = made("evaluate", score_marker(folder), predictions=outputs_digest(predicted))
    for what, reason in (("predictions", outdated(predicted, code=False)), ("score", outdated(scored, code=False))):
        if reason:
            raise InputError(f"{folder}: its {what}: {reason}; python -m src.evaluate {_arguments(folder)}")
    weights = {k.removeprefix(_WEIGHTS): v for k, v in scored.settings.items() if k.startswith(_WEIGHTS)}
    score = read_json(score_path(folder))
    report = score["network"] or score["oof"]
    return Run(name, folder, report, CaptionWeights(**weights), tuple(folds))


def _arguments(folder: Path) -> str:
    """What a stage must be called with to work on that run."""
    own = trained_settings(folder)
    chosen = own[0] if own else CONFIGS / f"{folder.name}.yaml"
    return f"--config {chosen}" if chosen.is_file() else f"run.name={folder.name}"


def _unknown(root: Path, name: str) -> str:
    runs = evaluated_runs(root)
    near = difflib.get_close_matches(name.rstrip("/").rpartition("/")[2], runs, 1)
    there = f"did you mean {near[0]}" if near else f"evaluated there: {', '.join(runs) or 'nothing yet'}"
    return f"{name}: no such run in {root}; {there}; to make it: python -m src.evaluate {_arguments(root / name)}"


def row(run: Run) -> dict:
    """The run's figures by name, None where there are none: scores out of fold, times in seconds.

    seconds_per_photo: MOS and caption of one photo by one fold's networks, opening these included. seconds_per_epoch:
    the median, validation included. training_seconds: all epochs of all folds; an epoch that was cut off counts from
    where it went on.
    """
    report, settings = run.report, run.trained["settings"]
    diagnostics = (report["diagnostics"]["captions"] or {}) if report["caption"] else {}
    sizes = [fold / "parameters.json" for fold in run.folds if (fold / "parameters.json").is_file()]
    size = read_json(sizes[0]) if sizes else {}
    epochs = [len(_column(fold / "metrics.csv", "epoch")) for fold in run.folds]
    times = [_column(fold / "timing.csv", "seconds") for fold in run.folds]
    photos, seconds = (
        sum(_column(predictions_folder(run.folder) / "timing.csv", name)) for name in ("photos", "seconds")
    )
    return {
        "run": run.name,
        "encoder": settings.get("encoder.name"),
        "decoder": None if settings.get("task") == "mos" else settings.get("decoder.name"),
        "remarks": ", ".join(_remarks(settings)),
        "folds": len(run.folds),
        "epochs": fmean(epochs) if epochs else None,
        **_score("mos", report["mos"], report["baseline"]["mos"], ("plcc", "srcc")),
        "mos_network": report["members"].get("network", {}).get("score"),
        **_score("caption", report["caption"], report["baseline"]["caption"], _PARTS),
        **{name: value for name, value in diagnostics.items() if isinstance(value, (int, float)) and name != "photos"},
        "parameters": size.get("total"),
        "trainable_parameters": size.get("trainable"),
        "seconds_per_photo": seconds / photos if photos else None,
        "seconds_per_epoch": median(sum(times, [])) if any(times) else None,
        "training_seconds": sum(map(sum, times)) if any(times) else None,
    }


def _score(name: str, block: dict | None, baseline: float | None, parts: tuple[str, ...]) -> dict:
    block = block or {}
    low, high = block.get("interval") or (None, None)
    found = {"photos": block.get("photos"), "score": block.get("score"), "low": low, "high": high, "baseline": baseline}
    return {f"{name}_{key}": value for key, value in found.items()} | {part: block.get(part) for part in parts}


def _remarks(settings: dict) -> list[str]:
    """What one must know of a run to read its figures."""
    encoder, start = settings.get("encoder.name", ""), settings.get("train.start_from")
    teacher = settings.get("decoder.distill_from")
    own_weights = settings.get("encoder.pretrained") or settings.get("encoder.weights") or start
    remarks = {
        "self-critical": settings.get("self_critical.from_epoch") is not None,
        "random regions": encoder.startswith("fasterrcnn") and not own_weights,
        "cached features": settings.get("encoder.cache", "none") != "none",
        f"from {start}": start,
        f"taught by {teacher}": teacher,
    }
    return [remark for remark, true in remarks.items() if true]


def _column(path: Path, name: str) -> list[float]:
    """A column of a CSV file, empty where there is no such file. Raises InputError where it holds no numbers."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return [float(cells[name]) for cells in csv.DictReader(file)]
        except (ValueError, KeyError, TypeError, csv.Error):
            raise InputError(f"{path} holds no column of numbers {name!r}; remove the file") from None

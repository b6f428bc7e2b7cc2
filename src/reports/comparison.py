"""Evaluated runs side by side: a row of figures per run, from the files that its stages wrote, and paired tests."""

import difflib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from src.base.errors import InputError
from src.base.files import read_json
from src.data.prediction_tables import read_predictions
from src.data.table import load_table
from src.metrics.caption_scores import CaptionScores, score_captions, tokenize
from src.metrics.significance import Paired, paired_captions, paired_mos
from src.pipeline import runs
from src.pipeline.artefacts import Artefact, outdated, outputs_digest
from src.settings.schema import CaptionWeights
from src.settings.yaml_files import CONFIGS

_WEIGHTS = "metric.weights."
_PARTS = {"mos": ("plcc", "srcc"),
          "caption": ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "wer")}  # fmt: skip


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its score.json.

    network: the out-of-fold report of its networks; that of the ensemble where it has none. weights: of the caption
    score, as it was evaluated. folds: their folders. joins: the names of the runs that one without networks joins.
    trained: the settings and inputs that its first fold was trained with; of joined runs the inputs in common.
    """

    name: str
    folder: Path
    task: str | None
    network: dict
    ensemble: dict
    weights: CaptionWeights
    folds: tuple[Path, ...]
    joins: tuple[str, ...]
    trained: dict

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The out-of-fold predictions that `network` reports on, by photo_id."""
        place = runs.ensemble_folder if self.joins else runs.predictions_folder
        return read_predictions(place(self.folder) / "oof.csv").set_index("photo_id")


def recorded(stage: str, marker: Path, **upstream: str) -> Artefact:
    """The artefact that a marker describes. upstream: present hashes of what it was made from."""
    record = read_json(marker) if marker.is_file() else {"settings": {}, "inputs": {}}
    return Artefact(stage, marker.parent, marker, record["settings"], record["inputs"] | upstream)


def open_run(root: Path, name: str) -> EvaluatedRun:
    """A run by its name. Raises InputError where there is none, or its predictions were not evaluated."""
    folder = root / name
    if runs.fold_folders(folder) or runs.predictions_folder(folder).is_dir():
        return _open_networks(name, folder)
    if runs.ensemble_folder(folder).is_dir():
        return _open_joined(name, folder)
    raise InputError(_unknown(root, name))


def _open_networks(name: str, folder: Path) -> EvaluatedRun:
    """A run that has networks of its own."""
    marker = runs.marker_of(runs.predictions_folder(folder))
    folds = [runs.fold_folder(folder, fold) for fold in runs.folds_named(recorded("predict", marker).inputs)]
    by_fold = {}
    for fold in folds:
        of_fold = runs.marker_of(marker.parent / fold.name)
        by_fold[fold.name] = recorded("predict", of_fold, fold=outputs_digest(recorded("train", runs.marker_of(fold))))
    hashes = {fold: outputs_digest(artefact) for fold, artefact in by_fold.items()}
    predictions = recorded("predict", marker, **hashes)
    score = recorded("evaluate", runs.score_marker(folder), predictions=outputs_digest(predictions))
    scores = _read_scores(folder, [("predictions", each) for each in (*by_fold.values(), predictions)], score)
    trained = read_json(runs.marker_of(folds[0]))
    task, reports = trained["settings"].get("task"), (scores["network"], scores["oof"])
    return EvaluatedRun(name, folder, task, *reports, _weights(score), tuple(folds), (), trained)


def _open_joined(name: str, folder: Path) -> EvaluatedRun:
    """A run that only joins others, whose photos and folds are the same."""
    ensemble = recorded("ensemble", runs.marker_of(runs.ensemble_folder(folder)))
    score = recorded("evaluate", runs.score_marker(folder), ensemble=outputs_digest(ensemble))
    report = _read_scores(folder, [("ensemble", ensemble)], score)["oof"]
    joins = tuple(read_json(ensemble.folder / "blend.json")["runs"])
    inputs = {"photos": score.inputs["photos"], "folds": ensemble.inputs[f"{joins[0]}.folds"]}
    trained, task = {"settings": {}, "inputs": inputs}, ensemble.settings["task"]
    return EvaluatedRun(name, folder, task, report, report, _weights(score), (), joins, trained)


def _read_scores(folder: Path, sources: list[tuple[str, Artefact]], score: Artefact) -> dict:
    """score.json. Raises InputError where it, or what it was made from (each with its name), is not as it was made."""
    for what, artefact in [*sources, ("score", score)]:
        if reason := outdated(artefact, code=False):
            raise InputError(f"{folder}: its {what}: {reason}; python -m src.evaluate {_arguments(folder)}")
    scores = read_json(runs.score_path(folder))
    if "network" not in scores:
        raise InputError(f"{folder}: its score is of an earlier version; python -m src.evaluate {_arguments(folder)}")
    return scores


def _weights(score: Artefact) -> CaptionWeights:
    weights = {k.removeprefix(_WEIGHTS): v for k, v in score.settings.items() if k.startswith(_WEIGHTS)}
    return CaptionWeights(**weights)


def _arguments(folder: Path) -> str:
    """The arguments with which a stage works on that run."""
    made_with = [*runs.trained_settings(folder), runs.ensemble_folder(folder) / "ensemble.yaml"]
    config = next((path for path in made_with if path.is_file()), CONFIGS / f"{folder.name}.yaml")
    return shlex.join(["--config", str(config)] if config.is_file() else [f"run.name={folder.name}"])


def _unknown(root: Path, name: str) -> str:
    evaluated = runs.evaluated_runs(root)
    near = difflib.get_close_matches(name.rstrip("/").rpartition("/")[2], evaluated, 1)
    hint = f"did you mean {near[0]}" if near else f"evaluated there: {', '.join(evaluated) or 'nothing yet'}"
    return f"{name}: no such run in {root}; {hint}; to make it: python -m src.evaluate {_arguments(root / name)}"


def comparison_row(run: EvaluatedRun) -> dict[str, Any]:
    """The run's figures by name, None where there are none: scores out of fold, times in seconds.

    seconds_per_photo: MOS and caption of one photo by one fold's networks, loading them included. seconds_per_epoch:
    the median, validation included. training_seconds: all epochs of all folds; of an interrupted epoch, from where it
    was resumed.
    """
    settings = run.trained["settings"]
    diagnostics = (run.network["diagnostics"]["captions"] or {}) if run.network["caption"] else {}
    sizes = [fold / "parameters.json" for fold in run.folds if (fold / "parameters.json").is_file()]
    size = read_json(sizes[0]) if sizes else {}
    epochs = [len(_column(fold / "metrics.csv", "epoch")) for fold in run.folds]
    times = pd.Series([t for fold in run.folds for t in _column(fold / "timing.csv", "seconds")], dtype=float)
    timing = runs.predictions_folder(run.folder) / "timing.csv"
    photos, seconds = (sum(_column(timing, name)) for name in ("photos", "seconds"))
    return {
        "run": run.name,
        "task": run.task,
        "encoder": settings.get("encoder.name"),
        "decoder": None if run.task == "mos" else settings.get("decoder.name"),
        "remarks": ", ".join(_remarks(settings, run.joins)),
        "folds": len(run.folds),
        "epochs": sum(epochs) / len(epochs) if epochs else None,
        **_scores(run, "mos"),
        **_scores(run, "caption"),
        **{name: value for name, value in diagnostics.items() if isinstance(value, (int, float)) and name != "photos"},
        "parameters": size.get("total"),
        "trainable_parameters": size.get("trainable"),
        "seconds_per_photo": seconds / photos if photos else None,
        "seconds_per_epoch": float(times.median()) if len(times) else None,
        "training_seconds": float(times.sum()) if len(times) else None,
    }


def _scores(run: EvaluatedRun, name: str) -> dict[str, Any]:
    block, ensemble = run.network[name] or {}, run.ensemble[name] or {}
    low, high = block.get("interval") or (None, None)
    figures = {"photos": block.get("photos"), "score": block.get("score"), "low": low, "high": high}
    figures |= {"baseline": run.network["baseline"][name], "ensemble": ensemble.get("score")}
    return {f"{name}_{key}": value for key, value in figures.items()} | {k: block.get(k) for k in _PARTS[name]}


def _remarks(settings: dict[str, Any], joins: tuple[str, ...]) -> list[str]:
    """What a reader of the figures must know of the run."""
    encoder, start = settings.get("encoder.name", ""), settings.get("train.start_from")
    teacher = settings.get("decoder.distill_from")
    pretrained = settings.get("encoder.pretrained") or settings.get("encoder.weights") or start
    remarks = {
        "self-critical": settings.get("self_critical.from_epoch") is not None,
        "random regions": encoder.startswith("fasterrcnn") and not pretrained,
        "cached features": settings.get("encoder.frozen") and settings.get("encoder.cache", "none") != "none",
        f"from {start}": start,
        f"taught by {teacher}": teacher,
        f"joins {' and '.join(joins)}": joins,
    }
    return [remark for remark, applies in remarks.items() if applies]


def _column(path: Path, name: str) -> list[float]:
    """A column of a CSV file; empty where there is no such file. Raises InputError where it holds no numbers."""
    if not path.is_file():
        return []
    try:
        return pd.read_csv(path, encoding="utf-8")[name].astype(float).tolist()
    except (ValueError, KeyError):  # pandas' errors are ValueErrors
        raise InputError(f"{path} holds no column of numbers {name!r}; remove the file") from None


@dataclass(frozen=True)
class RunTests:
    """The tests of a run against the first one; None for a task that one of the two did not learn.

    refused: why there are none, or "".
    """

    mos: Paired | None = None
    caption: Paired | None = None
    refused: str = ""


def _photos_folder(root: Path, run: EvaluatedRun) -> Path | None:
    """The photos and labels that a run worked on; None where runs/cache no longer holds them."""
    for folder in runs.cached_folders(root, "photos"):
        if outputs_digest(recorded("preprocess", runs.marker_of(folder))) == run.trained["inputs"].get("photos"):
            return folder
    return None


def _basis(root: Path, run: EvaluatedRun) -> dict[str, str]:
    """What two runs must have in common to be tested; the size or colour of the photos is not of it."""
    folder = _photos_folder(root, run)
    record = recorded("preprocess", runs.marker_of(folder)).record() if folder else None
    unknown = f"unknown of {run.name}"
    return {
        "photos or labels": record["outputs"]["photos.jsonl"]["sha256"] if record else unknown,
        "folds": run.trained["inputs"].get("folds", unknown),
        "metric.weights": str(run.weights),
    }


def paired_tests(root: Path, evaluated: list[EvaluatedRun], resamples: int, seed: int) -> list[RunTests]:
    """Each run but the first tested against it, on the photos that both predicted out of fold.

    Runs on other photos, labels or folds, or scored with other weights, are not tested.
    """
    first, *others = evaluated
    bases = [_basis(root, run) for run in evaluated]
    differing = [[what for what in basis if basis[what] != bases[0][what]] for basis in bases[1:]]
    tested = [first, *(run for run, what in zip(others, differing, strict=True) if not what)]
    refused = [RunTests(refused=f"other {' and other '.join(what)}") for what in differing]
    folder = _photos_folder(root, first)
    if len(tested) == 1 or folder is None:  # without its photos the first run equals no other one
        return refused
    table = load_table(folder / "photos.jsonl").set_index("photo_id")
    score = _caption_scorer(table["captions"], tested)

    def tests(run: EvaluatedRun) -> RunTests:
        photos = table.loc[first.predictions.index.intersection(run.predictions.index, sort=False)]
        mos = caption = None
        if first.network["mos"] and run.network["mos"]:
            truth = photos["mos"].dropna()
            system, reference = (one.predictions.loc[truth.index, "mos"].to_numpy(float) for one in (run, first))
            mos = paired_mos(system, reference, truth.to_numpy(), resamples, seed)
        if first.network["caption"] and run.network["caption"]:
            captioned = tuple(photos.index[photos["captions"].map(len) > 0])
            if captioned:
                scores = score(run.name, captioned), score(first.name, captioned)
                caption = paired_captions(*scores, first.weights, resamples, seed)
        return RunTests(mos, caption)

    return [refusal if what else tests(run) for run, what, refusal in zip(others, differing, refused, strict=True)]


def _caption_scorer(
    references: pd.Series, evaluated: list[EvaluatedRun]
) -> Callable[[str, tuple[str, ...]], CaptionScores]:
    """A function that scores the captions of the run of that name; no run twice on the same photos.

    The references of the photos give the document frequencies of CIDEr-D.
    """
    references = references[references.map(len) > 0]
    captions = {run.name: run.predictions["caption"] for run in evaluated if run.network["caption"]}

    @cache
    def tokens() -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
        texts = iter(tokenize([*map(list, references), *map(list, captions.values())]))
        truth = {photo: next(texts) for photo in references.index}
        return truth, {name: dict(zip(of_run.index, next(texts), strict=True)) for name, of_run in captions.items()}

    @cache
    def score(name: str, photos: tuple[str, ...]) -> CaptionScores:
        truth, by_run = tokens()
        candidates = [by_run[name][photo] for photo in photos]
        return score_captions([truth[photo] for photo in photos], candidates, tokenized=True)

    return score

"""The manifest of a submission: all that it was made from, so that it can be rebuilt byte for byte."""

import re
import shlex
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import digest_of, file_digest, read_json, write_json
from src.base.json_files import load_json
from src.base.provenance import provenance
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import Artefact
from src.pipeline.runs import fold_name, fold_number, run_folder, score_path
from src.pipeline.source_code import code_digest
from src.pipeline.trained_runs import joined
from src.settings.former_names import translated
from src.settings.keys import flatten
from src.settings.load import changed
from src.settings.schema import Settings
from src.submission.form import Form

VERSION = 2
"""Of the manifest's fields; a manifest of another version is refused."""
SHARED = (outputs.photos, outputs.vocabulary, outputs.folds)
"""What a run takes from the data; the functions' names are the manifest's keys."""
_SHA = re.compile("[0-9a-f]{64}")
_HASHES = {...: _SHA}
_MADE_WITH = {"packages": dict}
_RUN = {
    "settings": dict,
    **{artefact.__name__: _HASHES for artefact in SHARED},
    "learned_from": {...: _HASHES},
    "trained_with": {...: _MADE_WITH},
    "checkpoints": {...: _HASHES},
    "predictions": _HASHES,
}
_MANIFEST = {
    "submission": {"file": str, "sha256": _SHA, "form": _SHA},
    "runs": {...: _RUN},
    "made_with": _MADE_WITH,
    "code": _HASHES,
}


def local_scores(settings: Settings) -> dict[str, float | None]:
    """mos and caption of the run out of fold, None where not measured."""
    report = read_json(score_path(run_folder(settings)))["oof"]
    return {name: report[name]["score"] if report[name] else None for name in ("mos", "caption")}


def hashes(artefact: Artefact) -> dict[str, str]:
    """SHA-256 of each file of an artefact; none where it was not made."""
    record = artefact.record() or {"outputs": {}}
    return {name: output["sha256"] for name, output in record["outputs"].items()}


def form_digest(form: Form) -> str:
    """SHA-256 of a submission's columns, photos and given cells, in their order."""
    return digest_of([form.columns, form.names, *([dict(form.further_columns)] if form.further_columns else [])])


def _run(settings: Settings) -> dict:
    """One run: its settings, and the hashes of its inputs, checkpoints and predictions."""
    trained = {fold_name(k): outputs.fold(settings, k) for k in resolved.folds_of(settings)}
    return {
        "settings": flatten(settings),
        **{artefact.__name__: hashes(artefact(settings)) for artefact in SHARED},
        "learned_from": {name: fold.inputs for name, fold in trained.items()},
        "trained_with": {name: read_json(fold.folder / "provenance.json") for name, fold in trained.items()},
        "checkpoints": {name: hashes(fold) for name, fold in trained.items()},
        "predictions": hashes(outputs.predictions(settings)),
        "fold_predictions": {name: hashes(outputs.fold_predictions(settings, fold_number(name))) for name in trained},
    }


def environment() -> dict[str, Any]:
    """Git commit, Python, machine, threads, and the version of every installed package by name."""
    packages = {package.name: package.version for package in distributions()}
    return provenance(packages.__getitem__, sorted(packages, key=str.lower))


def write_manifest(path: Path, submitted: Path, form: Form, settings: Settings) -> None:
    """Write settings, environment, and the hashes of data, folds, checkpoints, predictions and the submission."""
    write_json(
        path,
        {
            "version": VERSION,
            "rebuild": shlex.join(["python", "-m", "src.rebuild", str(path)]),
            "submission": {"file": submitted.name, "sha256": file_digest(submitted), "form": form_digest(form)},
            "local_score": local_scores(settings),
            "runs": {run.run.name: _run(run) for run in (settings, *joined(settings))},
            "ensemble": hashes(outputs.ensemble(settings)),
            "made_with": environment(),
            "code": {stage: code_digest(stage) for stage in stages.STAGES},
        },
    )


def read_manifest(path: Path) -> dict:
    """A manifest as `write_manifest` writes it. Raises InputError for another file, another version, a damaged one."""
    manifest = load_json(path)
    if not isinstance(manifest, dict) or not {"submission", "made_with", "code"} <= manifest.keys():
        raise InputError(f"{path} is not the manifest of a submission; submit writes submissions/NAME.manifest.json")
    if (version := manifest.get("version")) != VERSION:
        raise InputError(
            f"{path} is a manifest of version {version}, this program reads version {VERSION}; use the program that "
            "wrote it (made_with names its git commit), or write it anew: python -m src.submit --fresh run.name=NAME"
        )
    wrong = _mismatch(manifest, _MANIFEST, "")
    if not wrong and manifest["submission"]["file"] not in {f"{name}.csv" for name in manifest["runs"]}:
        wrong = "submission.file"
    if wrong:
        raise InputError(f"{path}: {wrong} is not as it was written; get the file again")
    return manifest


def _mismatch(value: Any, form: Any, path: str) -> str:
    """The path of the first value that has not the given form, or "".

    form: a type, a pattern of text, or a mapping of keys to forms, where ... stands for any plain name.
    """
    if isinstance(form, re.Pattern):
        return "" if isinstance(value, str) and form.fullmatch(value) else path
    if isinstance(form, type):
        return "" if isinstance(value, form) else path
    any_name = ... in form
    if not isinstance(value, dict) or not (any_name or value.keys() >= form.keys()):
        return path or "its content"
    for key in value if any_name else form:
        inner = f"{path}.{key}".removeprefix(".")
        if any_name and not _plain(key):
            return inner
        if wrong := _mismatch(value[key], form[... if any_name else key], inner):
            return wrong
    return ""


def _plain(name: str) -> bool:
    """Whether it names a file or folder in a given one: a manifest of others must not lead out of runs/."""
    return bool(name.strip(".")) and not set(name) & set("/\\\0")


def settings_of(manifest: dict, path: Path) -> dict[str, Settings]:
    """The settings of each run after tuning, by name. Raises InputError where unknown, wrong or contradictory."""
    runs = {}
    for name, run in manifest["runs"].items():
        settings = changed(Settings(), translated(run["settings"]), f"{path}, {name}")
        folds = {fold_name(k) for k in resolved.folds_of(settings)}
        fits = run["checkpoints"].keys() == run["learned_from"].keys() == folds
        sources = [source for source in (settings.train.start_from, settings.decoder.distill_from) if source]
        if settings.run.name != name or settings.tune.trials != 0 or not fits or not all(map(_plain, sources)):
            raise InputError(f"{path}: the settings of {name} are not those of its folds; get the file again")
        runs[name] = settings
    return runs

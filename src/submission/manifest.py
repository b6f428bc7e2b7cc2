"""What is needed to rebuild a submission, and the log of all submissions."""

import csv
import io
import re
import shlex
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import digest_of, file_digest, provenance, read_json, write_json, write_text
from src.base.json_files import load_json
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import Artefact
from src.pipeline.runs import fold_name, fold_number, run_folder
from src.pipeline.source_code import code_digest
from src.pipeline.trained_runs import joined
from src.settings.load import changed, flatten
from src.settings.schema import Settings
from src.submission.form import Form

LOG = ("time", "run", "sha256", "local_mos", "local_caption", "leaderboard")
VERSION = 1
"""Of the manifest's form."""
SHARED = (outputs.photos, outputs.vocabulary, outputs.folds)
"""What a run has from the data, by name in the manifest."""
_SHA = re.compile("[0-9a-f]{64}")
_HASHES = {...: _SHA}
_MADE_WITH = {"packages": dict}
_RUN = {
    "settings": dict,
    **{made.__name__: _HASHES for made in SHARED},
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


def _scores(settings: Settings) -> tuple[float | None, float | None]:
    local = read_json(run_folder(settings) / "score.json")["oof"]
    return tuple(local[block]["score"] if local[block] else None for block in ("mos", "caption"))


def hashes(artefact: Artefact) -> dict[str, str]:
    """The content hash of each file that an artefact holds; none where it was not made."""
    record = artefact.record() or {"outputs": {}}
    return {name: output["sha256"] for name, output in record["outputs"].items()}


def form_digest(form: Form) -> str:
    """Hash of a submission's columns and photos, in their order."""
    return digest_of([form.columns, form.names])


def _run(settings: Settings) -> dict:
    """What one run was made from, and what it made."""
    trained = {fold_name(k): outputs.fold(settings, k) for k in resolved.folds_of(settings)}
    return {
        "settings": flatten(settings),
        **{made.__name__: hashes(made(settings)) for made in SHARED},
        "learned_from": {name: fold.inputs for name, fold in trained.items()},
        "trained_with": {name: read_json(fold.folder / "provenance.json") for name, fold in trained.items()},
        "checkpoints": {name: hashes(fold) for name, fold in trained.items()},
        "predictions": hashes(outputs.predictions(settings)),
        "candidates": {name: hashes(outputs.candidates(settings, fold_number(name))) for name in trained},
    }


def write_manifest(path: Path, submitted: Path, form: Form, settings: Settings) -> None:
    """Write settings, versions, machine, and the hashes of data, folds, checkpoints and the submission."""
    installed = installed_packages()
    quality, caption = _scores(settings)
    write_json(
        path,
        {
            "version": VERSION,
            "rebuild": shlex.join(["python", "-m", "src.rebuild", str(path)]),
            "submission": {"file": submitted.name, "sha256": file_digest(submitted), "form": form_digest(form)},
            "local_score": {"mos": quality, "caption": caption},
            "runs": {run.run.name: _run(run) for run in (settings, *joined(settings))},
            "ensemble": hashes(outputs.ensemble(settings)) if outputs.has_ensemble(settings) else {},
            "made_with": provenance(installed.get, list(installed)),
            "code": {stage: code_digest(stage) for stage in stages.STAGES},
        },
    )


def installed_packages() -> dict[str, str]:
    """The version of every package that is installed, by name."""
    return dict(sorted({d.name: d.version for d in distributions()}.items(), key=lambda item: item[0].lower()))


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
    wrong = _misfit(manifest, _MANIFEST, "")
    if not wrong and manifest["submission"]["file"] not in {f"{name}.csv" for name in manifest["runs"]}:
        wrong = "submission.file"
    if wrong:
        raise InputError(f"{path}: {wrong} is not as it was written; get the file again")
    return manifest


def _misfit(value: Any, form: Any, where: str) -> str:
    """The first place at which a value has not the given form, or "".

    A form is a type, a pattern of text, or a mapping of keys to forms, where ... stands for any plain name.
    """
    if isinstance(form, re.Pattern):
        return "" if isinstance(value, str) and form.fullmatch(value) else where
    if isinstance(form, type):
        return "" if isinstance(value, form) else where
    any_name = ... in form
    if not isinstance(value, dict) or not (any_name or value.keys() >= form.keys()):
        return where or "its content"
    for key in value if any_name else form:
        inner = f"{where}.{key}".removeprefix(".")
        if any_name and not _plain(key):
            return inner
        if found := _misfit(value[key], form[... if any_name else key], inner):
            return found
    return ""


def _plain(name: str) -> bool:
    """Whether it names a file or folder in a given one, and none elsewhere."""
    return bool(name.strip(".")) and not set(name) & set("/\\\0")


def settings_of(manifest: dict, path: Path) -> dict[str, Settings]:
    """The settings of each run, as they were after tuning. Refuses unknown, wrong or contradictory ones."""
    found = {}
    for name, run in manifest["runs"].items():
        settings = changed(Settings(), run["settings"], f"{path}, {name}")
        folds = {fold_name(k) for k in resolved.folds_of(settings)}
        fits = run["checkpoints"].keys() == run["learned_from"].keys() == folds
        others = {settings.train.start_from, settings.decoder.distill_from} - {None}
        if settings.run.name != name or settings.tune.trials != 0 or not fits or not all(map(_plain, others)):
            raise InputError(f"{path}: the settings of {name} are not those of its folds; get the file again")
        found[name] = settings
    return found


def log_submission(path: Path, submitted: Path, settings: Settings) -> None:
    """Add a line to the log, unless this file of this run is there already; what the user wrote in it stays."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ",".join(LOG) + "\n"
    entry = {"run": settings.run.name, "sha256": file_digest(submitted)}
    if any(entry.items() <= row.items() for row in csv.DictReader(io.StringIO(text))):
        return
    quality, caption = (f"{score:.4f}" if score is not None else "" for score in _scores(settings))
    line = io.StringIO()
    row = [time.strftime("%Y-%m-%d %H:%M:%S"), entry["run"], entry["sha256"], quality, caption, ""]
    csv.writer(line, lineterminator="\n").writerow(row)
    write_text(path, text + ("" if text.endswith("\n") else "\n") + line.getvalue())

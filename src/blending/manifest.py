"""What is needed to rebuild a submission, and the log of all submissions."""

import csv
import dataclasses
import io
import time
from importlib.metadata import distributions
from pathlib import Path

from src import pipeline
from src.artefacts import Artefact, code_digest
from src.files import file_digest, provenance, read_json, write_json, write_text
from src.settings import Settings

LOG = ("time", "run", "sha256", "local_quality", "local_caption", "leaderboard")


def _scores(settings: Settings) -> tuple[float | None, float | None]:
    local = read_json(pipeline.run_folder(settings) / "score.json")["oof"]
    return tuple(local[block]["score"] if local[block] else None for block in ("quality", "caption"))


def write_manifest(path: Path, submitted: Path, settings: Settings) -> None:
    """Write settings, versions, and the hashes of data, folds, checkpoints and the submission."""
    installed = sorted({d.name: d.version for d in distributions()}.items(), key=lambda item: item[0].lower())
    quality, caption = _scores(settings)

    def hashes(artefact: Artefact) -> dict[str, str]:
        return {name: output["sha256"] for name, output in artefact.record()["outputs"].items()}

    write_json(
        path,
        {
            "submission": {"file": submitted.name, "sha256": file_digest(submitted)},
            "local_score": {"quality": quality, "caption": caption},
            "settings": dataclasses.asdict(settings),
            "made_with": provenance(dict(installed).get, [name for name, _ in installed]),
            "code": {stage: code_digest(stage) for stage in pipeline.STAGES},
            "data": hashes(pipeline.photos(settings)),
            "vocabulary": hashes(pipeline.vocabulary(settings)),
            "folds": hashes(pipeline.folds(settings)),
            "checkpoints": {f"fold-{k}": hashes(pipeline.fold(settings, k)) for k in pipeline.folds_of(settings)},
            "predictions": hashes(pipeline.predictions(settings)),
        },
    )


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

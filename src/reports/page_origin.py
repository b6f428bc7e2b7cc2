"""Where a run's result comes from: commands, versions, hashes, seconds, the checks of its submission."""

import io
import shlex
from pathlib import Path

from PIL import Image

from src.base.files import file_digest, read_json
from src.pipeline import outputs, resolved, runs, stages
from src.pipeline.artefacts import Artefact, outputs_digest
from src.reports.page_parts import Code, Column, Part, Picture, Section, Sentence, Table, data_address, duration, shown
from src.reports.page_photos import rows_of
from src.settings.load import as_arguments, as_yaml
from src.settings.schema import Settings

_WIDEST = 1000
"""Pixels of a picture that a stage drew."""
_CHECKED = (
    "the columns and the photos of the form, in its order",
    "no photo missing, doubled or unknown",
    "every MOS a number within the range of the labels",
    "no empty caption, none with an unknown word",
    "the cells that the form gives as they were",
)


def picture_of(path: Path) -> list[Part]:
    """Where the captioner looked, where a stage has drawn it."""
    if not path.is_file():
        return []
    content = io.BytesIO()
    with Image.open(path) as drawn:
        title, image = str(drawn.info.get("Title", "")), drawn.convert("RGB")
        image.thumbnail((_WIDEST, 2 * _WIDEST), Image.Resampling.LANCZOS)
        image.save(content, "jpeg", quality=80, optimize=True)
    text = shown(f"Where the captioner looked at each word{': ' + title if title else ''}")
    note = "one panel a word of the photo whose caption scores highest; bright: looked at"
    return [Picture("Where the captioner looked", data_address(content.getvalue(), "jpeg"), text, note)]


def _seconds(artefact: Artefact) -> float:
    return (artefact.record() or {}).get("seconds") or 0.0


def stage_seconds(settings: Settings) -> dict[str, float]:
    """The seconds that each stage took, those that run beside one another added up; only what was recorded.

    Of training: the features and all epochs. What runs share counts for each of them. Not tune: workers share it.
    """
    run, folds = runs.run_folder(settings), resolved.folds_of(settings)
    timings = [runs.fold_folder(run, fold) / "timing.csv" for fold in folds]
    epochs = [float(row["seconds"]) for path in timings if path.is_file() for row in rows_of(path)]
    features = _seconds(outputs.features(settings)) if settings.encoder.cached else 0.0
    timed = runs.marker_of(outputs.predictions(settings).folder).with_name("timing.csv")
    seconds = {
        "preprocess": _seconds(outputs.photos(settings)) + _seconds(outputs.vocabulary(settings)),
        "split": _seconds(outputs.folds(settings)),
        "train": features + sum(epochs),
        "predict": sum(float(row["seconds"]) for row in rows_of(timed)) if timed.is_file() else 0.0,
        "ensemble": _seconds(outputs.ensemble(settings)),
        "evaluate": _seconds(outputs.score(settings)),
    }
    return {stage: took for stage, took in seconds.items() if took}


def origin_section(settings: Settings, seconds: dict[str, float]) -> Section:
    """Seconds by stage, the submission and its checks, commands, versions and hashes."""
    run = runs.run_folder(settings)
    arguments = shlex.join(as_arguments(settings))
    parts: list[Part] = []
    if seconds:
        rows = [[stage, duration(seconds[stage])] for stage in stages.STAGES if stage in seconds]
        rows.append(["in all", duration(sum(seconds.values()))])
        note = "folds that ran beside one another are added up; without the search of tune"
        parts.append(
            Table("Time by stage", [Column("stage"), Column("time", numeric=True)], rows, note, strong=(len(rows) - 1,))
        )
    parts += _submission(settings)
    commands = [f"./run.sh {arguments}", f"python -m src.evaluate {arguments}", f"python -m src.submit {arguments}"]
    manifest = Path(settings.run.submissions) / f"{settings.run.name}.manifest.json"
    if manifest.is_file():
        commands.append(shlex.join(["python", "-m", "src.rebuild", str(manifest)]))
    parts.append(
        Code(
            "Commands",
            [shown_line(line) for line in commands],
            "the last makes the same bytes again" if manifest.is_file() else "",
        )
    )
    parts.append(
        Code(
            "Settings that are not the defaults", [shown(line) for line in as_yaml(settings).splitlines()], folded=True
        )
    )
    provenance = [runs.fold_folder(run, fold) / "provenance.json" for fold in resolved.folds_of(settings)]
    if origin := next((read_json(path) for path in provenance if path.is_file()), None):
        parts.append(_versions(origin))
    parts.append(_hashes(settings))
    return Section("origin", "Origin", parts)


def shown_line(line: str) -> str:
    """A command in full: cut, it would be another one."""
    return "".join(shown(line[start : start + 200]) for start in range(0, len(line), 200))


def _submission(settings: Settings) -> list[Part]:
    """What submit wrote and checked, where it has."""
    marker, file = (
        runs.submission_marker(runs.run_folder(settings)),
        Path(settings.run.submissions, f"{settings.run.name}.csv"),
    )
    record = read_json(marker) if marker.is_file() else None
    if record is None or not file.is_file():
        return [Sentence("Nothing has been submitted: python -m src.submit does it.")]
    current = record["inputs"].get("predictions") == outputs_digest(outputs.ensemble(settings))
    same = record["outputs"].get(file.name, {}).get("sha256") == file_digest(file)
    if not current or not same:
        why = "was changed after submit had checked it" if current else "is of an earlier result of this run"
        return [Sentence(f"The submission {why}: python -m src.submit makes it anew. It is", file.name)]
    note = f"{sum(1 for _ in rows_of(file)):,} rows, SHA-256 {file_digest(file)}"
    columns = [Column(shown(str(file)), stranger=True)]
    return [Table("Checks of the submission, all passed", columns, [[f"✓ {what}"] for what in _CHECKED], note)]


def _versions(origin: dict) -> Table:
    changed = " with uncommitted changes" if origin.get("uncommitted_changes") else ""
    rows = [["git commit", f"{origin.get('git') or 'unknown'}{changed}"], ["Python", origin["python"]]]
    rows += [["machine", f"{origin['machine']}, {origin.get('processor', '')}"]]
    rows += [
        ["GPUs", ", ".join(map(str, origin.get("gpus") or [])) or "none"],
        ["threads", str(origin.get("threads", ""))],
    ]
    rows += [[name, str(version)] for name, version in {**origin["packages"], **(origin.get("weights") or {})}.items()]
    return Table(
        "Versions that trained it",
        [Column("what"), Column("version", stranger=True)],
        [[shown(a), shown(b)] for a, b in rows],
        folded=True,
    )


def _hashes(settings: Settings) -> Table:
    """SHA-256 of what the result depends on."""
    artefacts = [("photos", outputs.photos(settings)), ("folds", outputs.folds(settings))]
    artefacts += [(runs.fold_name(k), outputs.fold(settings, k)) for k in resolved.folds_of(settings)]
    artefacts += [("ensemble", outputs.ensemble(settings))]
    rows = [
        [f"{name}/{file}", output["sha256"]]
        for name, artefact in artefacts
        for file, output in (artefact.record() or {"outputs": {}})["outputs"].items()
        if file != "pixels.npy"
    ]
    return Table("Hashes", [Column("file"), Column("SHA-256")], [[shown(file), sha] for file, sha in rows], folded=True)

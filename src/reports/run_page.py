"""The page that tells how a run went: one HTML file, runs/NAME/report.html, that needs nothing outside itself."""

from pathlib import Path

import numpy as np

from src.base.files import read_json
from src.pipeline import outputs, resolved, runs
from src.pipeline.trained_runs import joined
from src.reports.page_origin import origin_section, picture_of, stage_seconds
from src.reports.page_parts import Page, Part, Section, duration
from src.reports.page_photos import (
    Answers,
    Labels,
    Thumbnails,
    caption_groups,
    fetch_texts,
    frequent_captions,
    mos_groups,
    reference_lengths,
    shown_photos,
)
from src.reports.page_sections import (
    captions_section,
    data_section,
    leaderboard,
    mos_section,
    training_section,
    tuning_section,
)
from src.reports.page_verdict import cautions, former_run, leak_cautions, verdicts
from src.reports.page_writing import write_page
from src.settings.schema import Settings

_LOOKED_FOR = "collapsed captions or MOS, scores under their baselines, leaks between folds and into the test part, "
_LOOKED_FOR += "covariate shift, and photos that cannot be read"


def write_report(settings: Settings) -> Path:
    """Write the page of an evaluated run from the files of its stages, and return its path.

    settings: after tuning.
    """
    path = runs.report_path(runs.run_folder(settings))
    write_page(run_page(settings), path)
    return path


def run_page(settings: Settings) -> Page:
    """All that the page says. Its tables are read row by row: memory hardly grows with the photos."""
    run, photos, ensemble = (
        runs.run_folder(settings),
        outputs.photos(settings).folder,
        outputs.ensemble(settings).folder,
    )
    table, predictions = photos / "photos.jsonl", ensemble / "oof.csv"
    scores, statistics = read_json(runs.score_path(run)), read_json(photos / "statistics.json")
    labels = Labels.of(table)
    answers = Answers.of(predictions, labels)
    digests, phash = (np.load(photos / f"{name}.npy", mmap_mode="r") for name in ("digests", "phash"))
    seconds = stage_seconds(settings)
    networks = {each.run.name: sum(_of_networks(stage_seconds(each))) for each in joined(settings)}

    captioned = labels.captions[answers.row] > 0
    has_captions = scores["oof"]["diagnostics"]["captions"] is not None
    frequent = (
        frequent_captions(answers, captioned if captioned.any() else ~captioned, predictions) if has_captions else []
    )
    learned = ~labels.test & (labels.part != ord("r")) & (~np.isnan(labels.mos) | (labels.captions > 0))
    fold_of = np.where(learned, answers.fold.max(initial=0) + 1, -1)  # of photos that are in every training part
    fold_of[answers.row[answers.row >= 0]] = answers.fold[answers.row >= 0]
    leaks = leak_cautions(labels, fold_of, np.asarray(digests))
    shift = run / "covariate_shift.json"
    sections = [
        leaderboard(scores, ensemble, networks, seconds.get("ensemble")),
        mos_section(labels, answers, scores["oof"]["mos"] is not None),
        captions_section(scores, frequent, answers.lengths, reference_lengths(statistics)),
        _photos_section(settings, scores, labels, answers),
        training_section(run, resolved.folds_of(settings)),
        data_section(statistics, labels, np.asarray(digests), np.asarray(phash), runs.rejected_path(run)),
        tuning_section(runs.tuning_folder(run), settings),
        origin_section(settings, seconds),
    ]
    total = sum(seconds.values())
    about = [f"task {settings.task}", f"{len(answers.row):,} photos scored out of fold"]
    about += [f"{settings.encoder.name}"] if resolved.has_networks(settings) else [f"joins {len(networks)} runs"]
    return Page(
        kind="run",
        name=settings.run.name,
        about=[*about, *([f"stages but tune took {duration(total)}, folds added up"] if total else [])],
        verdicts=verdicts(scores, former_run(settings)),
        cautions=list(cautions(settings, scores, read_json(shift) if shift.is_file() else {}, leaks)),
        looked_for=_LOOKED_FOR,
        sections=[section for section in sections if section and section.parts],
    )


def _of_networks(seconds: dict[str, float]) -> list[float]:
    return [seconds[stage] for stage in ("train", "predict") if stage in seconds]


def _photos_section(settings: Settings, scores: dict, labels: Labels, answers: Answers) -> Section:
    """Best, worst and least certain photos, and where the captioner looked in one of them."""
    run, photos = runs.run_folder(settings), outputs.photos(settings).folder
    groups = mos_groups(labels, answers) if scores["oof"]["mos"] else []
    if scores["oof"]["caption"]:
        confidence = outputs.ensemble(settings).folder / "caption_confidence.csv"
        groups += caption_groups(runs.caption_scores_path(run), confidence, answers, labels)
    wanted = {row for group in groups for row in group.rows}
    texts = fetch_texts(wanted, answers, photos / "photos.jsonl", outputs.ensemble(settings).folder / "oof.csv")
    thumbnail = Thumbnails(photos, settings.view.fit == "squash")
    parts: list[Part] = [shown_photos(group, texts, thumbnail) for group in groups]
    return Section("photos", "Photos", [*parts, *picture_of(runs.attention_path(run))])

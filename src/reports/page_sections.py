"""The sections of a run's page, each from the files that the stages wrote; None where there is nothing to tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from src.base.errors import InputError
from src.base.files import read_json
from src.pipeline import outputs, runs
from src.plots.training_curves import PANELS, Panel, Series, best_epoch, mean_over_folds, read_metrics
from src.reports.page_charts import (
    Line,
    calibration_chart,
    histogram_chart,
    lengths_chart,
    lines_chart,
    range_bar,
    residual_chart,
    scatter_chart,
    trials_chart,
)
from src.reports.page_parts import (
    Chart,
    Charts,
    Code,
    Column,
    Part,
    Section,
    Sentence,
    Table,
    between,
    duration,
    number,
    shown,
)
from src.reports.page_photos import Answers, Labels, rows_of
from src.settings.former_names import read_saved
from src.settings.keys import all_settings
from src.settings.schema import Settings

_MEASURES = {"cider_d": "CIDEr-D", "meteor": "METEOR", "bleu4": "BLEU-4", "bleu3": "BLEU-3", "bleu2": "BLEU-2",
             "bleu1": "BLEU-1", "rouge_l": "ROUGE-L", "wer": "Word error rate"}  # fmt: skip
_MOST_ROWS = 20
"""Of a table that could be endless."""
_COLOURS = {"#0072B2": "a", "#E69F00": "b", "#009E73": "c", "#CC79A7": "d", "#222222": "e", "#D55E00": "b"}
"""The page's colours for those of plots/style.py."""
_MOST_FOLDS = 10
"""Folds drawn one by one besides their mean."""


def _figure(cell: str, form: str = ".3f") -> str:
    return number(float(cell), form) if cell else ""


def leaderboard(scores: dict, folder: Path, seconds: dict[str, float], total: float | None) -> Section:
    """Members, each alone, and the steps of blend and captions with what each adds.

    folder: of the ensemble. seconds: of the networks of each run, by its name. total: of the ensemble in all.
    """
    parts: list[Part] = []
    blend, timing = read_json(folder / "blend.json"), folder / "timing.json"
    regressors = read_json(timing) if timing.is_file() else {}
    used = {
        entry["member"] if entry["run"] in (None, blend["runs"][0]) else f"{entry['member']} {entry['run']}": entry[
            "weight"
        ]
        for entry in blend["mos"]["members"]
    }
    members = {name: block for name, block in scores["oof"]["members"].items() if name != "blend"}
    if members:
        blocks = dict(sorted(members.items(), key=lambda item: -item[1]["score"]))
        if scores["oof"]["mos"]:
            blocks = {"this run": scores["oof"]["mos"]} | blocks
        bounds = [v for block in blocks.values() for v in (block["score"], *(block["interval"] or ()))]
        rows = []
        for name, block in blocks.items():
            member, _, run = name.partition(" ")
            took = seconds.get(run or blend["runs"][0]) if member == "network" else regressors.get(name)
            low, high = block["interval"] or (None, None)
            rows.append(
                [shown(name), range_bar(block["score"], low, high, (min(bounds), max(bounds))), number(block["score"]),
                 between(low, high), number(block["plcc"]), number(block["srcc"]),
                 f"{used[name]:.2f}" if name in used else "", duration(took) if took else ""]
            )  # fmt: skip
        columns = [
            Column("member", stranger=True),
            Column(""),
            *(Column(c, numeric=True) for c in ("score", "95%", "PLCC", "SRCC", "weight", "time")),
        ]
        note = (
            "weight: its share of the blend. time: fitting and predictions of all folds, a regressor's without features"
        )
        note += f"; ensemble took {duration(total)} in all" if total else ""
        parts.append(Table("MOS: each member alone", columns, rows, note, strong=(0,) if "this run" in blocks else ()))
    steps = list(rows_of(folder / "ablation.csv"))
    for kind, title in (("MOS", "MOS: what each step adds"), ("caption", "Captions: what each step adds")):
        if of_kind := [step for step in steps if step["kind"] == kind and step["score"]]:
            parts.append(_steps(title, of_kind, kind == "caption"))
    return Section("leaderboard", "Leaderboard", parts)


def _steps(title: str, steps: list[dict[str, str]], distinct: bool) -> Table:
    def value(step: dict[str, str], name: str) -> float | None:
        return float(step[name]) if step[name] else None

    bounds = [v for step in steps for name in ("score", "low", "high") if (v := value(step, name)) is not None]
    rows = []
    for step in steps:
        score, low, high = (value(step, name) for name in ("score", "low", "high"))
        gain = between(value(step, "gain_low"), value(step, "gain_high"), "+.3f")
        row = [shown(step["step"]), range_bar(score, low, high, (min(bounds), max(bounds))), number(score),
               between(low, high), _figure(step["gain"], "+.3f"), gain]  # fmt: skip
        rows.append([*row, _figure(step["distinct"], ".0%")] if distinct else row)
    titles = ["score", "95%", "gain", "95%", *(["distinct"] if distinct else [])]
    columns = [Column("step", stranger=True), Column(""), *(Column(name, numeric=True) for name in titles)]
    off = tuple(place for place, step in enumerate(steps) if step["on"] != "on")
    note = "gain: over the step it starts from. Faint: not for the test photos"
    return Table(title, columns, rows, note, faint=off)


def mos_section(labels: Labels, answers: Answers, measured: bool) -> Section | None:
    """Predictions against labels, residuals, calibration."""
    truth = labels.mos[answers.row]
    scored = ~np.isnan(truth) & ~np.isnan(answers.mos) & (answers.row >= 0)
    if not measured or scored.sum() < 3:
        return None
    predicted, truth = answers.mos[scored], truth[scored]
    charts = [draw(predicted, truth) for draw in (scatter_chart, calibration_chart, residual_chart)]
    return Section("mos", "MOS", [Charts(charts)])


def captions_section(
    scores: dict, frequent: list[tuple[str, int]], written: np.ndarray, people: np.ndarray
) -> Section | None:
    """Measures beside the baseline's, frequent captions, lengths [W] of the run's and of people's captions."""
    block, baseline = scores["oof"]["caption"], scores["oof"]["baseline"]
    if block is None:
        return None
    parts: list[Part] = []
    measures, network = baseline.get("measures") or {}, (scores["network"] or {}).get("caption")
    rows = []
    for name, title in {"score": "Score", **_MEASURES}.items():
        constant = baseline["caption"] if name == "score" else measures.get(name)
        row: list[str | Markup] = [title, number(block[name]), *([number(network[name])] if network else [])]
        gained = None not in (constant, block[name])
        rows.append([*row, number(constant), number(block[name] - constant, "+.3f") if gained else ""])
    titles = ["this run", *(["networks alone"] if network else []), "constant sentence", "gain over it"]
    columns = [Column("measure"), *(Column(name, numeric=True) for name in titles)]
    parts.append(Table("Captions by measure", columns, rows, "of the word error rate less is better", strong=(0,)))
    if baseline["sentence"]:
        parts.append(Sentence("The constant sentence of each fold:", shown(baseline["sentence"])))
    told = scores["oof"]["diagnostics"]["captions"]
    photos = told["photos"]
    rows = [[shown(text), f"{count:,}", f"{count / photos:.1%}"] for text, count in frequent]
    columns = [Column("caption", stranger=True), Column("photos", numeric=True), Column("share", numeric=True)]
    note = (
        f"{told['distinct']:,} distinct captions on {photos:,} photos; a word twice running in "
        f"{told['adjacent_repeats']:.1%}, a pair of words twice in {told['repeated_pairs']:.1%}, "
        f"broken off in {told['dangling']:.1%}"
    )
    if rows:
        parts.append(Table("Most frequent captions", columns, rows, note))
    else:
        parts.append(Sentence(note[0].upper() + note[1:] + "."))
    parts.append(Charts([lengths_chart(written, people)]))
    return Section("captions", "Captions", parts)


def training_section(run: Path, folds: list[int]) -> Section | None:
    """The curves of all folds: each thin, their mean thick."""
    files = [runs.fold_folder(run, fold) / "metrics.csv" for fold in folds]
    try:
        series = [read_metrics(path) for path in files if path.is_file()]
    except InputError:  # a fold without an epoch, which predict will tell of
        return None
    charts = [_curves(panel, series) for panel in PANELS if any(fold.keys() & panel.lines.keys() for fold in series)]
    lines = f"each of {len(series)} folds thin, their mean thick" if len(series) > 1 else "one fold"
    return Section("training", "Training", [Sentence(f"By epoch; {lines}."), Charts(charts)]) if charts else None


def _curves(panel: Panel, folds: list[Series]) -> Chart:
    lines, told, marks = [], [], []
    for column, (label, colour) in panel.lines.items():
        drawn, style = [fold for fold in folds if column in fold], _COLOURS[colour]
        if not drawn:
            continue
        if 1 < len(drawn) <= _MOST_FOLDS:
            lines += [Line(fold["epoch"], fold[column], style) for fold in drawn]
        x, y = mean_over_folds(folds, column)
        if not len(x):
            x, y = drawn[0]["epoch"], drawn[0][column]
        lines.append(Line(x, y, style, label))
        finite = y[np.isfinite(y)]
        told.append(f"{label} from {finite[0]:.4g} to {finite[-1]:.4g}" if len(finite) else label)
        marks.append((label, style))
    best = [row for fold in folds if panel.best and (row := best_epoch(fold, panel.best))]
    note = panel.below if len(marks) == 1 else ""
    if best:
        epochs = ", ".join(str(epoch) for epoch, _ in best[:_MOST_FOLDS])
        note += f"{'; ' if note else ''}best in epoch {epochs}: {np.mean([value for _, value in best]):.3f}"
    chart = lines_chart(panel.title, lines, "epoch", note, f"{panel.title}: {'; '.join(told)}")
    return Chart(chart.title, chart.svg, chart.text, chart.note, legend=marks if len(marks) > 1 else [])


def data_section(statistics: dict, labels: Labels, digests: np.ndarray, phash: np.ndarray, rejected: Path) -> Section:
    """Parts, labels, duplicates, and what was left out.

    digests: uint8 [N, B] of the files, all 0 where there is none. phash: uint64 [N] perceptual hashes.
    """
    train, count = ~labels.test & (labels.part != ord("r")), lambda which: f"{int(which.sum()):,}"
    present = digests.any(axis=1)
    files = np.ascontiguousarray(digests[present]).view(f"V{digests.shape[1]}").ravel()
    facts = [
        ("photos for training", count(train)),
        ("… with a MOS", count(train & ~np.isnan(labels.mos))),
        ("… with captions", count(train & (labels.captions > 0))),
        ("captions of these", f"{int(labels.captions[train].sum()):,}"),
        ("test photos", count(labels.test)),
        ("groups that stay in one fold", f"{statistics['groups']:,}"),
        ("files that occur again", f"{len(files) - len(np.unique(files)):,}"),
        ("photos that look like another one", f"{int(present.sum()) - len(np.unique(phash[present])):,}"),
    ]
    if mos := statistics["mos"]:
        facts.append(("MOS", f"{mos['mean']:.2f} ± {mos['sd']:.2f}, from {mos['min']:g} to {mos['max']:g}"))
    if words := statistics["captions"]["words"]:
        facts.append(
            ("words in a caption", f"median {words['median']:g}, 95% up to {words['p95']:g}, {words['max']} at most")
        )
    parts: list[Part] = [
        Table("Photos and labels", [Column(""), Column("", numeric=True)], [list(fact) for fact in facts])
    ]
    if mos:
        edges, counts = (np.array(mos["histogram"][name]) for name in ("edges", "counts"))
        text = f"MOS of {mos['count']:,} photos for training: {facts[8][1]}"
        parts.append(Charts([histogram_chart("MOS of the labels", edges, counts, "MOS", text)]))
    if rejected.is_file() and (rows := _first(rejected, lambda row: [shown(cell) for cell in row.values()])):
        columns = [Column(name, stranger=True) for name in ("where", "photo", "file", "why")]
        note = f"the first {len(rows)}" if len(rows) == _MOST_ROWS else ""
        parts.append(Table("Left out", columns, rows, note, folded=len(rows) > 5))
    return Section("data", "Data", parts)


def _first(path: Path, cells: Callable[[dict[str, str]], list[Any]]) -> list[list[Any]]:
    return [cells(row) for row, _ in zip(rows_of(path), range(_MOST_ROWS), strict=False)]


def _trained_with(settings: Settings, winner: dict[str, str]) -> bool:
    """Whether the run has the winner's settings, as text by dotted key, as far as training depends on them."""
    run = outputs.training_settings(settings)
    try:
        return all(all_settings()[key].value_of(text) == run[key] for key, text in winner.items() if key in run)
    except ValueError:  # best.yaml was edited to what is no such value
        return False


def tuning_section(folder: Path, settings: Settings) -> Section | None:
    """The trials, the best first, and what the judge found; nothing of a search whose result the run does not use."""
    best_file = folder / "best.yaml"
    if not (folder / "trials.csv").is_file() or not best_file.is_file():
        return None
    if not _trained_with(settings, read_saved(best_file)):
        return None
    trials = list(rows_of(folder / "trials.csv"))
    names = list(trials[0]) if trials else []
    score = next((name for name in names if name.endswith("score")), None)
    if score is None:
        return None
    parts: list[Part] = []
    marker = runs.marker_of(folder)
    if marker.is_file() and (took := read_json(marker).get("seconds")):
        parts.append(Sentence(f"The search took {duration(took)}."))
    if (folder / "judge.json").is_file() and (judged := read_json(folder / "judge.json")).get("verdict"):
        parts.append(Sentence(f"{judged['verdict'][0].upper()}{judged['verdict'][1:]}."))
    values = [float(row[score]) if row[score] else None for row in trials]
    if any(value is not None for value in values):
        parts.append(Charts([trials_chart(values)]))
    best = sorted(trials, key=lambda row: -float(row[score] or "-inf"))[:_MOST_ROWS]
    kept = [name for name in names if any(row[name] for row in best)]
    rows = [[_short(row[name]) for name in kept] for row in best]
    columns = [Column(name, numeric=name not in ("state", "reason")) for name in kept]
    note = f"the best {len(rows)} of {len(trials)}" if len(trials) > len(rows) else ""
    parts.append(Table("Trials, the best first", columns, rows, note))
    text = best_file.read_text(encoding="utf-8")
    parts.append(Code(best_file.name, [shown(line) for line in text.splitlines()[: 2 * _MOST_ROWS]]))
    return Section("tuning", "Tuning", parts)


def _short(cell: str) -> str:
    """A figure with four digits; other text as it is."""
    try:
        return cell if cell.isdecimal() else number(float(cell), ".4g")
    except ValueError:
        return shown(cell)

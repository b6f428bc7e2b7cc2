"""The page that puts runs side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.metrics.significance import Paired
from src.pipeline.runs import report_path
from src.reports.comparison import EvaluatedRun, RunTests
from src.reports.page_charts import range_bar
from src.reports.page_parts import Caution, Column, Page, Part, Section, Table, between, duration, number, shown, within
from src.reports.page_writing import write_page
from src.settings.keys import defaults

_CAPTIONS = {"cider_d": "CIDEr-D", "meteor": "METEOR", "bleu4": "BLEU-4", "bleu3": "BLEU-3", "rouge_l": "ROUGE-L",
             "wer": "WER"}  # fmt: skip
_SHARES = {"most_frequent_share": "most frequent", "adjacent_repeats": "a word twice running",
           "repeated_pairs": "a pair of words twice", "dangling": "broken off", "unk_share": "with <unk>"}  # fmt: skip
_MOST_SETTINGS = 40
Row = dict[str, Any]


def write_comparison_page(
    folder: Path, evaluated: list[EvaluatedRun], rows: list[Row], tests: list[RunTests], resamples: int
) -> None:
    """Write the page into the folder of a comparison. The arguments are those of `comparison_page`."""
    write_page(comparison_page(evaluated, rows, tests, resamples), report_path(folder))


def comparison_page(evaluated: list[EvaluatedRun], rows: list[Row], tests: list[RunTests], resamples: int) -> Page:
    """All that the page says. rows: of `comparison_row`. tests: of all runs but the first, against it."""
    first = rows[0]["run"]
    scores: list[Part] = [part for name in ("mos", "caption") if (part := _scores(name, rows, tests))]
    sections = [
        Section("scores", "Scores", scores),
        Section("captions", "Captions", _captions(rows)),
        Section("networks", "Networks", [_networks(rows)]),
        Section("settings", "Settings that differ", _settings(evaluated)),
    ]
    cautions = [
        Caution(
            f"{within(row['run'])} is not tested against {within(first)}",
            f"It has {test.refused}: such scores do not compare."
            if test.refused
            else "Too few photos, or equal labels.",
        )
        for row, test in zip(rows[1:], tests, strict=True)
        if not (test.mos or test.caption)
    ]
    about = ["scores of the networks, out of fold", f"intervals and tests: bootstrap, {resamples:,} resamples"]
    about += [f"tested against {within(first)}"] if len(rows) > 1 else []
    name = " · ".join(within(row["run"]) for row in rows)
    kept = [section for section in sections if section.parts]
    return Page("comparison", name, about, [], cautions, "", kept)


def _scores(name: str, rows: list[Row], tests: list[RunTests]) -> Table | None:
    """Runs with their scores, the best first, beside baseline, ensemble and the paired test."""
    title = {"mos": "MOS score", "caption": "Caption score"}[name]
    scored = [(row, test) for row, test in zip(rows, [None, *tests], strict=True) if row[f"{name}_score"] is not None]
    if not scored:
        return None
    scored.sort(key=lambda pair: -pair[0][f"{name}_score"])
    bounds = [
        v for row, _ in scored for k in ("score", "low", "high", "baseline") if (v := row[f"{name}_{k}"]) is not None
    ]
    cells = []
    for row, test in scored:
        score, low, high, baseline, ensemble = (
            row[f"{name}_{k}"] for k in ("score", "low", "high", "baseline", "ensemble")
        )
        paired: Paired | None = getattr(test, name) if test else None
        cells.append(
            [shown(row["run"]), range_bar(score, low, high, (min(bounds), max(bounds))), number(score),
             between(low, high), _or_nothing(baseline), _or_nothing(ensemble),
             *([number(paired.difference, "+.3f"), between(paired.low, paired.high, "+.3f"), f"{paired.p:.3f}"]
               if paired else [""] * 3)]
        )  # fmt: skip
    titles = ("score", "95%", "baseline", "ensemble", "difference", "95%", "p")
    columns = [Column("run", stranger=True), Column(""), *(Column(text, numeric=True) for text in titles)]
    note = "baseline: " + {"mos": "ridge regression", "caption": "the best constant sentence"}[name]
    note += (
        f". difference, p: the networks against those of {within(rows[0]['run'])} on the photos in common"
        if tests
        else ""
    )
    note += "; p is not corrected for the number of runs" if len(tests) > 1 else ""
    return Table(title, columns, cells, note)


def _or_nothing(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else number(value, form)


def _captions(rows: list[Row]) -> list[Part]:
    captioned = [row for row in rows if row["caption_score"] is not None]
    if not captioned:
        return []
    measures = [[shown(row["run"]), *(_or_nothing(row[key]) for key in _CAPTIONS)] for row in captioned]
    shapes = [
        [shown(row["run"]), _or_nothing(row.get("mean_words"), ".1f"), _or_nothing(row.get("distinct"), ",d"),
         *(_or_nothing(row.get(key), ".1%") for key in _SHARES)]
        for row in captioned
    ]  # fmt: skip
    return [
        Table("Measures", _columns(_CAPTIONS.values()), measures, "of the word error rate (WER) less is better"),
        Table("What they are like", _columns(["words", "distinct", *_SHARES.values()]), shapes),
    ]


def _columns(titles: Any) -> list[Column]:
    return [Column("run", stranger=True), *(Column(title, numeric=True) for title in titles)]


def _networks(rows: list[Row]) -> Table:
    shows: dict[str, Callable[[Any], str]] = {
        "epochs": lambda v: f"{v:.3g}",
        "parameters": lambda v: f"{v / 1e6:.1f} M",
        "trainable_parameters": lambda v: f"{v / 1e6:.1f} M",
        "seconds_per_photo": lambda v: f"{1000 * v:.1f} ms",
        "seconds_per_epoch": duration,
        "training_seconds": duration,
    }
    words = [Column(title, stranger=True) for title in ("run", "encoder", "decoder", "remarks")]
    titles = ("epochs", "parameters", "trainable", "a photo", "an epoch", "training")
    cells = [
        [shown(row["run"]), *(shown(row[k] or "") for k in ("encoder", "decoder", "remarks")),
         *("" if row[key] is None else show(row[key]) for key, show in shows.items())]
        for row in rows
    ]  # fmt: skip
    note = "a photo: MOS and caption by one fold's networks. training: all epochs of all folds"
    return Table("Sizes and times", [*words, *(Column(title, numeric=True) for title in titles)], cells, note)


def _settings(evaluated: list[EvaluatedRun]) -> list[Part]:
    """What the runs were trained with, where it differs."""
    trained = [{**defaults(), **run.trained["settings"]} if run.trained["settings"] else {} for run in evaluated]
    keys = [key for key in defaults() if len({str(settings.get(key)) for settings in trained if settings}) > 1]
    if not keys:
        return []
    rows = [[key, *(shown(str(settings.get(key, ""))) for settings in trained)] for key in keys[:_MOST_SETTINGS]]
    note = f"the first {_MOST_SETTINGS} of {len(keys)}" if len(keys) > _MOST_SETTINGS else ""
    columns = [Column("setting"), *(Column(shown(run.name), stranger=True) for run in evaluated)]
    return [Table("", columns, rows, note)]

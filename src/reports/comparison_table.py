"""The comparison as CSV, with every figure in full, and as text for people, at most 160 columns wide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from src.base.files import write_text
from src.base.text_table import text_table
from src.metrics.significance import Paired
from src.plots.comparison_plot import draw_comparison, shortened
from src.reports.comparison import RunTests

_LONGEST_NAME = 26
Row = dict[str, Any]
Show = str | Callable[[Any], str]
"""How a figure is shown: a format, or a function of it."""


def write_tables(folder: Path, rows: list[Row], tests: list[RunTests], resamples: int) -> str:
    """Write comparison.csv, comparison.txt and comparison.png to the folder; the text. Arguments as below."""
    text = as_text(rows, tests, resamples)
    write_text(folder / "comparison.csv", as_csv(rows, tests))
    write_text(folder / "comparison.txt", text + "\n")
    draw_comparison(rows, folder / "comparison.png")
    return text


def as_csv(rows: list[Row], tests: list[RunTests]) -> str:
    """A line per run; figures that a run does not have are empty. tests: those of all runs but the first."""
    lines = [rows[0]]
    for row, test in zip(rows[1:], tests, strict=True):
        lines.append(row | {"against": rows[0]["run"], **_flat("mos", test.mos), **_flat("caption", test.caption)})
    return pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")  # object: 3 stays 3 beside None


def _flat(name: str, test: Paired | None) -> Row:
    if test is None:
        return {}
    figures = {"difference": test.difference, "difference_low": test.low, "difference_high": test.high, "p": test.p}
    return {f"{name}_{key}": value for key, value in (figures | {"photos_in_common": test.photos}).items()}


def as_text(rows: list[Row], tests: list[RunTests], resamples: int) -> str:
    """Tables with the runs as rows: scores beside their baselines, captions, networks and their times, the tests."""
    rows = [row | _with_baseline(row, "mos", ".3f") | _with_baseline(row, "caption", ".2f") for row in rows]
    tables = [
        _table(
            "Scores out of fold: the networks, their baselines (ridge regression, constant sentence), the ensemble",
            [("MOS score [95%]", "mos_text", ""), ("baseline", "mos_baseline_text", ""),
             ("ensemble", "mos_ensemble", ".3f"), ("caption score [95%]", "caption_text", ""),
             ("baseline", "caption_baseline_text", ""), ("ensemble", "caption_ensemble", ".2f"),
             ("CIDEr-D", "cider_d", ".3f"), ("METEOR", "meteor", ".3f"), ("BLEU-4", "bleu4", ".3f"),
             ("ROUGE-L", "rouge_l", ".3f"), ("WER", "wer", ".3f")],
            rows,
        )
    ]  # fmt: skip
    if captioned := [row for row in rows if row["caption_score"] is not None]:
        tables.append(_table(
            "Captions out of fold: words on average, how many are distinct, and shares of them",
            [("words", "mean_words", ".1f"), ("distinct", "distinct", "d"),
             ("most frequent", "most_frequent_share", ".1%"), ("a word twice running", "adjacent_repeats", ".1%"),
             ("a pair of words twice", "repeated_pairs", ".1%"), ("broken off", "dangling", ".1%"),
             ("with <unk>", "unk_share", ".1%"), ("empty", "empty", "d")],
            captioned,
        ))  # fmt: skip
    tables.append(_table(
        "Networks: seconds per predicted photo and per training epoch, training of all folds",
        [("encoder", "encoder", _short), ("decoder", "decoder", ""), ("remarks", "remarks", _short),
         ("epochs", "epochs", ".3g"), ("parameters", "parameters", _with_unit),
         ("trainable", "trainable_parameters", _with_unit), ("s/photo", "seconds_per_photo", ".4f"),
         ("s/epoch", "seconds_per_epoch", ".1f"), ("in total", "training_seconds", _duration)],
        rows,
        words=3,
    ))  # fmt: skip
    return "\n\n".join([*tables, *([_tests(rows, tests, resamples)] if tests else [])])


def _tests(rows: list[Row], tests: list[RunTests], resamples: int) -> str:
    first, lines = _short(rows[0]["run"]), []
    tested = [
        {"run": row["run"], "mos": test.mos, "caption": test.caption}
        for row, test in zip(rows[1:], tests, strict=True)
        if test.mos or test.caption
    ]
    if tested:
        columns: list[tuple[str, str, Show]] = []
        for title, name in (("MOS", "mos"), ("caption", "caption")):
            columns += [
                (f"{title} difference [95%]", name, lambda t: f"{t.difference:+.3f} [{t.low:+.3f}, {t.high:+.3f}]"),
                ("p", name, lambda t: f"{t.p:.3f}"),
                ("photos", name, lambda t: str(t.photos)),
            ]
        uncorrected = "; p is not corrected for the number of runs" if len(tested) > 1 else ""
        lines.append(_table(f"Paired bootstrap against {first}, {resamples} resamples{uncorrected}", columns, tested))
    for row, test in zip(rows[1:], tests, strict=True):
        if not (test.mos or test.caption):
            why = f"it has {test.refused}" if test.refused else "too few photos, or equal labels"
            lines.append(f"{_short(row['run'])} is not tested against {first}: {why}")
    return "\n".join(lines)


def _table(title: str, columns: list[tuple[str, str, Show]], rows: list[Row], words: int = 0) -> str:
    """A table with the run's name in front, and columns of a title, the rows' key and how its figure is shown.

    words: how many of the first columns hold words, not figures.
    """

    def cell(value: Any, show: Show) -> str:
        if value is None:
            return ""
        return f"{value:{show}}" if isinstance(show, str) else show(value)

    columns = [("run", "run", _short), *columns]
    cells = [[name for name, _, _ in columns]]
    cells += [[cell(row.get(key), show) for _, key, show in columns] for row in rows]
    sides = "<" * (words + 1) + ">" * (len(columns) - words - 1)
    return f"{title}\n{text_table(cells, sides, indent='  ')}"


def _with_baseline(row: Row, name: str, form: str) -> Row:
    """A score with its interval, and its baseline, as text; nothing of a task that the run did not learn."""
    score, low, high, baseline = (row[f"{name}_{key}"] for key in ("score", "low", "high", "baseline"))
    if score is None:
        return {f"{name}_text": "not measured"} if row["task"] in (name, "both") else {}
    text = f"{score:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")
    under = None if baseline is None else f"{'UNDER ' if low is not None and score < baseline else ''}{baseline:{form}}"
    return {f"{name}_text": text, f"{name}_baseline_text": under}


def _with_unit(value: int) -> str:
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1, ""))
    return f"{value / size:.3g} {unit}" if unit else str(value)


def _duration(seconds: float) -> str:
    """Hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _short(name: str) -> str:
    return shortened(name, _LONGEST_NAME)

"""The comparison as CSV, with every figure in full, and as text for people, at most 160 columns wide."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from src.base.text_table import text_table
from src.metrics.significance import Paired
from src.plots.comparison_plot import shortened
from src.reports.paired_tests import RunTests

LONGEST_NAME = 26
Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""A title, and the cell of a row; "" where it has none."""


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
    tables = [
        _table(
            "Scores out of fold: the networks, their baselines (ridge regression, constant sentence), the ensemble",
            [
                ("MOS score [95%]", lambda row: _with_interval(row, "mos", ".3f")),
                ("baseline", lambda row: _baseline(row, "mos", ".3f")),
                _figure("ensemble", "mos_ensemble", ".3f"),
                ("caption score [95%]", lambda row: _with_interval(row, "caption", ".2f")),
                ("baseline", lambda row: _baseline(row, "caption", ".2f")),
                _figure("ensemble", "caption_ensemble", ".2f"),
                _figure("CIDEr-D", "cider_d", ".3f"),
                _figure("METEOR", "meteor", ".3f"),
                _figure("BLEU-4", "bleu4", ".3f"),
                _figure("ROUGE-L", "rouge_l", ".3f"),
                _figure("WER", "wer", ".3f"),
            ],
            rows,
        )
    ]
    if captioned := [row for row in rows if row["caption_score"] is not None]:
        tables.append(
            _table(
                "Captions out of fold: words on average, how many are distinct, and shares of them",
                [
                    _figure("words", "mean_words", ".1f"),
                    _figure("distinct", "distinct", "d"),
                    _figure("most frequent", "most_frequent_share", ".1%"),
                    _figure("a word twice running", "adjacent_repeats", ".1%"),
                    _figure("a pair of words twice", "repeated_pairs", ".1%"),
                    _figure("broken off", "dangling", ".1%"),
                    _figure("with <unk>", "unk_share", ".1%"),
                    _figure("empty", "empty", "d"),
                ],
                captioned,
            )
        )
    tables.append(
        _table(
            "Networks: seconds per predicted photo and per training epoch, training of all folds",
            [
                ("encoder", lambda row: _short(row["encoder"] or "")),
                ("decoder", lambda row: row["decoder"] or ""),
                ("remarks", lambda row: _short(row["remarks"])),
                _figure("epochs", "epochs", ".3g"),
                ("parameters", lambda row: _with_unit(row["parameters"])),
                ("trainable", lambda row: _with_unit(row["trainable_parameters"])),
                _figure("s/photo", "seconds_per_photo", ".4f"),
                _figure("s/epoch", "seconds_per_epoch", ".1f"),
                ("in total", lambda row: _duration(row["training_seconds"])),
            ],
            rows,
            words=3,
        )
    )
    return "\n\n".join([*tables, *([_tests(rows, tests, resamples)] if tests else [])])


def _tests(rows: list[Row], tests: list[RunTests], resamples: int) -> str:
    first, lines = _short(rows[0]["run"]), []
    tested = [row | {"tests": test} for row, test in zip(rows[1:], tests, strict=True) if not test.refused]
    if tested:
        columns = [*_test_columns("MOS", "mos"), *_test_columns("caption", "caption")]
        uncorrected = "; p is not corrected for the number of runs" if len(tested) > 1 else ""
        lines.append(_table(f"Paired bootstrap against {first}, {resamples} resamples{uncorrected}", columns, tested))
    for row, test in zip(rows[1:], tests, strict=True):
        if test.refused:
            lines.append(f"{_short(row['run'])} is not tested against {first}: it has {test.refused}")
    return "\n".join(lines)


def _test_columns(title: str, name: str) -> list[Column]:
    def cell(show: Callable[[Paired], str]) -> Callable[[Row], str]:
        return lambda row: show(getattr(row["tests"], name)) if getattr(row["tests"], name) else ""

    return [
        (f"{title} difference [95%]", cell(lambda t: f"{t.difference:+.3f} [{t.low:+.3f}, {t.high:+.3f}]")),
        ("p", cell(lambda t: f"{t.p:.3f}")),
        ("photos", cell(lambda t: str(t.photos))),
    ]


def _table(title: str, columns: Sequence[Column], rows: list[Row], words: int = 0) -> str:
    """A table with the run's name in front. words: how many of the first columns hold words, not figures."""
    columns = [("run", lambda row: _short(row["run"])), *columns]
    cells = [[name for name, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    sides = "<" * (words + 1) + ">" * (len(columns) - words - 1)
    return f"{title}\n{text_table(cells, sides, indent='  ')}"


def _figure(title: str, key: str, form: str) -> Column:
    return title, lambda row: "" if row.get(key) is None else f"{row[key]:{form}}"


def _with_interval(row: Row, name: str, form: str) -> str:
    score, low, high = (row[f"{name}_{key}"] for key in ("score", "low", "high"))
    if score is None:
        return ""
    return f"{score:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def _baseline(row: Row, name: str, form: str) -> str:
    score, baseline = row[f"{name}_score"], row[f"{name}_baseline"]
    if score is None or baseline is None:
        return ""
    return f"{'UNDER ' if score < baseline else ''}{baseline:{form}}"


def _with_unit(value: int | None) -> str:
    if value is None:
        return ""
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1, ""))
    return f"{value / size:.3g} {unit}" if unit else str(value)


def _duration(seconds: float | None) -> str:
    """Hours:minutes:seconds."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _short(name: str) -> str:
    return shortened(name, LONGEST_NAME)

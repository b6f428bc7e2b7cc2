"""The comparison as CSV, with every figure in full, and as text for people, 160 columns wide."""

import csv
import io
from collections.abc import Callable

from src.metrics.significance import Paired
from src.plots.comparison_plot import shortened
from src.reports.paired_tests import Pair

LONGEST_NAME = 26
_WORDS = ("run", "encoder", "decoder", "remarks")
Show = Callable[[dict], str]


def as_csv(rows: list[dict], pairs: list[Pair]) -> str:
    """One line per run; figures that a run does not have are empty. pairs: the tests of all runs but the first."""
    against = [{}, *({"against": rows[0]["run"], **_flat("mos", p.mos), **_flat("caption", p.caption)} for p in pairs)]
    lines = [row | test for row, test in zip(rows, against, strict=True)]
    text = io.StringIO()
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(name: str, test: Paired | None) -> dict:
    if test is None:
        return {}
    figures = (test.difference, test.low, test.high, test.p, test.photos)
    keys = ("difference", "difference_low", "difference_high", "p", "photos_in_common")
    return {f"{name}_{key}": figure for key, figure in zip(keys, figures, strict=True)}


def as_text(rows: list[dict], pairs: list[Pair], resamples: int) -> str:
    """Tables with the runs as rows: scores beside their baselines, captions, networks and their times, the tests."""
    captioned = [row for row in rows if row["caption_score"] is not None]
    blocks = [_scores(rows), *([_captions(captioned)] if captioned else []), _networks(rows)]
    if pairs:
        blocks.append(_tests(rows, pairs, resamples))
    return "\n\n".join(blocks)


def _scores(rows: list[dict]) -> str:
    columns = [
        ("run", lambda row: _short(row["run"])),
        ("MOS score [95%]", lambda row: _interval(row, "mos", ".3f")),
        ("ridge baseline", lambda row: _baseline(row, "mos", ".3f")),
        ("network", _figure("mos_network", ".3f")),
        ("caption score [95%]", lambda row: _interval(row, "caption", ".2f")),
        ("constant baseline", lambda row: _baseline(row, "caption", ".2f")),
        ("CIDEr-D", _figure("cider_d", ".3f")),
        ("METEOR", _figure("meteor", ".3f")),
        ("BLEU-4", _figure("bleu4", ".3f")),
        ("ROUGE-L", _figure("rouge_l", ".3f")),
        ("WER", _figure("wer", ".3f")),
    ]
    return _table("Scores out of fold", columns, rows)


def _captions(rows: list[dict]) -> str:
    columns = [
        ("run", lambda row: _short(row["run"])),
        ("words", _figure("mean_words", ".1f")),
        ("distinct", _figure("distinct", "d")),
        ("most frequent", _figure("most_frequent_share", ".1%")),
        ("a word twice running", _figure("adjacent_repeats", ".1%")),
        ("a pair of words twice", _figure("repeated_pairs", ".1%")),
        ("broken off", _figure("dangling", ".1%")),
        ("with <unk>", _figure("unk_share", ".1%")),
        ("empty", _figure("empty", "d")),
    ]
    return _table("Captions out of fold: words on average, how many are distinct, and shares of them", columns, rows)


def _figure(key: str, form: str) -> Show:
    return lambda row: _number(row.get(key), form)


def _networks(rows: list[dict]) -> str:
    columns = [
        ("run", lambda row: _short(row["run"])),
        ("encoder", lambda row: _short(row["encoder"] or "")),
        ("decoder", lambda row: row["decoder"] or ""),
        ("remarks", lambda row: _short(row["remarks"])),
        ("epochs", lambda row: _number(row["epochs"], ".3g")),
        ("parameters", lambda row: _large(row["parameters"])),
        ("trainable", lambda row: _large(row["trainable_parameters"])),
        ("s/photo", lambda row: _number(row["seconds_per_photo"], ".4f")),
        ("s/epoch", lambda row: _number(row["seconds_per_epoch"], ".1f")),
        ("in total", lambda row: _duration(row["training_seconds"])),
    ]
    return _table("Networks: seconds per predicted photo and per training epoch, training of all folds", columns, rows)


def _tests(rows: list[dict], pairs: list[Pair], resamples: int) -> str:
    first = _short(rows[0]["run"])
    tested = [row | {"pair": pair} for row, pair in zip(rows[1:], pairs, strict=True) if not pair.refused]
    lines = []
    if tested:
        columns = [("run", lambda row: _short(row["run"]))]
        for title, name in (("MOS", "mos"), ("caption", "caption")):
            columns += _test_columns(f"{title} difference [95%]", name)
        several = "; p is not corrected for the number of runs" if len(tested) > 1 else ""
        lines.append(_table(f"Paired bootstrap against {first}, {resamples} resamples{several}", columns, tested))
    for row, pair in zip(rows[1:], pairs, strict=True):
        if pair.refused:
            lines.append(f"{_short(row['run'])} is not tested against {first}: it has {pair.refused}")
    return "\n".join(lines)


def _test_columns(title: str, name: str) -> list[tuple[str, Show]]:
    def entry(show: Callable[[Paired], str]) -> Show:
        return lambda row: show(getattr(row["pair"], name)) if getattr(row["pair"], name) else ""

    return [
        (title, entry(lambda test: f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]")),
        ("p", entry(lambda test: f"{test.p:.3f}")),
        ("photos", entry(lambda test: str(test.photos))),
    ]


def _table(title: str, columns: list[tuple[str, Show]], rows: list[dict]) -> str:
    """Aligned columns, text to the left and figures to the right; a column without any entry is left out."""
    padded = []
    for name, show in columns:
        cells = [show(row) for row in rows]
        if any(cells):
            width = max(map(len, [name, *cells]))
            side = "<" if name in _WORDS else ">"
            padded.append([f"{text:{side}{width}}" for text in (name, *cells)])
    return "\n".join([title, *("  " + "  ".join(line).rstrip() for line in zip(*padded, strict=True))])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _interval(row: dict, name: str, form: str) -> str:
    score, low, high = (row[f"{name}_{key}"] for key in ("score", "low", "high"))
    if score is None:
        return ""
    return f"{score:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def _baseline(row: dict, name: str, form: str) -> str:
    score, baseline = row[f"{name}_score"], row[f"{name}_baseline"]
    if score is None or baseline is None:
        return ""
    return f"{'UNDER ' if score < baseline else ''}{baseline:{form}}"


def _large(value: int | None) -> str:
    if value is None:
        return ""
    size, unit = next((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if value >= s or s == 1)
    return f"{value / size:.3g} {unit}".rstrip() if unit else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _short(name: str) -> str:
    return shortened(name, LONGEST_NAME)

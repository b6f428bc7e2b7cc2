"""The comparison's text fits a terminal whatever the runs are called, and marks what is under its baseline."""

from typing import Any

from src.metrics.significance import Paired
from src.reports.comparison import RunTests
from src.reports.comparison_table import as_csv, as_text

SCORES = {"photos": 100_000, "low": 0.7, "high": 0.8, "baseline": 0.6, "ensemble": 0.8}
PARTS = ("cider_d", "meteor", "bleu4", "rouge_l", "wer", "mean_words", "most_frequent_share", "adjacent_repeats")
PARTS += ("repeated_pairs", "dangling", "unk_share")


def row(name: str, mos: float | None, caption: float | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "run": name,
        "task": "both",
        "encoder": "e" * 40,
        "decoder": "mask_predict",
        "remarks": "r" * 60,
    }
    for task, score in (("mos", mos), ("caption", caption)):
        figures |= {f"{task}_{key}": None if score is None else value for key, value in SCORES.items()}
        figures[f"{task}_score"] = score
    figures |= dict.fromkeys(PARTS, 0.5) | {"distinct": 100_000, "empty": 0, "epochs": 12.5, "parameters": 12_345_678}
    times = {"seconds_per_photo": 0.0123, "seconds_per_epoch": 1234.5, "training_seconds": 3723.0}
    return figures | {"trainable_parameters": None} | times


def test_lines_are_at_most_160_columns_wide_and_say_what_is_under_its_baseline():
    rows = [row("a" * 50, 0.75, 1.5), row("b" * 50, 0.5, 0.4), row("c", None, 1.0)]
    tests = [RunTests(Paired(-0.25, -0.3, -0.2, 0.01, 100_000), Paired(-1.1, -1.2, -1, 0.01, 100_000))]
    tests.append(RunTests(refused="other folds"))
    text = as_text(rows, tests, 1000)
    assert max(map(len, text.splitlines())) <= 160
    assert text.count("UNDER 0.60") == 2 and "UNDER 0.600" in text
    assert "1:02:03" in text and "12.3 M" in text and "trainable" not in text, "a column without figures is left out"
    assert "c is not tested against" in text and "it has other folds" in text


def test_the_csv_keeps_whole_numbers_and_leaves_unknown_cells_empty():
    rows = [row("a", 0.75, 1.5), row("b", None, 1.0)]
    first, second = as_csv(rows, [RunTests(caption=Paired(-0.5, -0.6, -0.4, 0.01, 7))]).splitlines()[1:]
    assert ",12345678," in first and ",100000," in first and "nan" not in (first + second).lower()
    assert second.endswith(",a,-0.5,-0.6,-0.4,0.01,7") and first.endswith(",,,,,,")

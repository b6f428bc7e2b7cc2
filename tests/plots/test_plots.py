"""The pictures: what they show is what the files say, and equal content gives equal bytes."""

import csv
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from src.base.errors import InputError
from src.plots.ablation_plot import draw_ablation
from src.plots.data_histograms import draw_statistics
from src.plots.example_photos import _CAPTION, draw_examples, wrap
from src.plots.style import GRAY
from src.plots.training_curves import best_epoch, draw_curves, draw_run_curves, mean_over_folds, read_metrics

MOS = ["mos_loss", "val_plcc", "val_srcc", "val_mos_score"]
NON_AUTOREGRESSIVE = ["length_loss", "loss", "val_wer", "val_wer_visible"]
CAPTION = ["caption_loss", "val_bleu4", "val_meteor", "val_rouge_l", "val_cider_d", "val_caption_score"]
WORDS = {"median": 6.0, "p95": 9.0, "max": 11, "histogram": {"5": 700, "6": 900, "9": 300, "11": 100}}
HISTOGRAM = {"edges": [1.0, 4.0, 7.0, 10.0], "counts": [300, 900, 300]}
STATISTICS = {
    "photos": {"train": 1500, "test": 300},
    "groups": 96,
    "channels": {"mean": [0.43, 0.41, 0.38], "sd": [0.27, 0.26, 0.28]},
    "mos": {"count": 1500, "mean": 5.5, "sd": 1.5, "min": 1.25, "max": 9.75, "histogram": HISTOGRAM},
    "captions": {"count": 2000, "distinct": 1800, "words": WORDS, "per_photo": {"1": 1000, "2": 500}},
}


def metrics(path: Path, columns: list[str], epochs: int = 4, seed: int = 0, **given) -> Path:
    """Write a metrics.csv of random numbers; `given` columns replace or add to them."""
    rng = np.random.default_rng(seed)
    table = {"epoch": list(range(1, epochs + 1)), "lr": np.linspace(1e-3, 0, epochs).tolist()}
    table |= {column: rng.random(epochs).tolist() for column in columns} | given
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and "Software" not in image.info
        return image.size


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def panel(figure: Figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def line(axes, label: str):
    return next(found for found in axes.lines if found.get_label() == label)


def test_curves_show_every_number_and_mark_the_first_best_epoch(tmp_path, drawn):
    scores = [0.25, 0.5, 0.5, 0.375]
    path = metrics(tmp_path / "fold-2" / "metrics.csv", MOS + CAPTION, val_mos_score=scores)
    draw_curves(path, tmp_path / "curves.png")
    figure = drawn[0]
    assert size(tmp_path / "curves.png") == (1600, 1027)
    assert len(figure.axes) == 6 and "Training of fold 2" in texts(figure)
    shown = line(panel(figure, "MOS, validation"), "score: their mean")
    assert shown.get_xdata().tolist() == [1, 2, 3, 4] and shown.get_ydata().tolist() == scores
    assert "best: 0.500 in epoch 2" in texts(figure)
    star = next(found for found in panel(figure, "MOS, validation").lines if found.get_marker() == "*")
    assert star.get_xydata().tolist() == [[2, 0.5]]
    cider = [float(row["val_cider_d"]) for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    measures = panel(figure, "Caption measures, validation")
    assert line(measures, "CIDEr-D").get_ydata().tolist() == cider
    assert [text.get_text() for text in measures.get_legend().get_texts()] == ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D"]


FULL = "Learning rate; Caption loss, training; Caption measures, validation; Caption score, validation"
LOSSES = "Learning rate; Length loss, training; Loss, training; Word error rate, validation"
SCORES = "MOS loss, training; MOS, validation; Learning rate"
PANELS = [(MOS, SCORES, 555), (CAPTION, FULL, 1027), (NON_AUTOREGRESSIVE, LOSSES, 1027)]


@pytest.mark.parametrize(("columns", "expected", "height"), [*PANELS, ([], "Learning rate", 555)])
def test_panels_without_a_column_are_left_out(tmp_path, drawn, columns, expected, height):
    draw_curves(metrics(tmp_path / "metrics.csv", columns, epochs=1), tmp_path / "curves.png")
    assert "; ".join(axes.get_title(loc="left") for axes in drawn[0].axes) == expected
    assert size(tmp_path / "curves.png") == (1600, height)


def test_empty_cells_are_gaps_and_a_column_of_them_is_no_column(tmp_path):
    path = metrics(tmp_path / "m.csv", [], 3, val_mos_score=["", 0.2, "nan"], val_plcc=["", "", "inf"])
    series = read_metrics(path)
    assert "val_plcc" not in series
    assert np.isnan(series["val_mos_score"]).tolist() == [True, False, True]
    assert best_epoch(series, "val_mos_score") == (2, 0.2)
    assert best_epoch(series, "val_caption_score") is None


def test_run_curves_average_the_epochs_that_every_fold_reached(tmp_path, drawn):
    files = {
        "fold 0": metrics(tmp_path / "0.csv", [], 3, val_caption_score=[1.0, 2.0, 3.0]),
        "fold 1": metrics(tmp_path / "1.csv", [], 2, val_caption_score=[2.0, 4.0]),
    }
    epochs, mean = mean_over_folds([read_metrics(path) for path in files.values()], "val_caption_score")
    assert epochs.tolist() == [1, 2] and mean.tolist() == [1.5, 3.0]
    draw_run_curves(files, tmp_path / "run.png")
    axes = panel(drawn[0], "Caption score, validation")
    assert line(axes, "score").get_ydata().tolist() == [1.5, 3.0]
    assert [len(found.get_ydata()) for found in axes.lines if found.get_linewidth() == 0.8] == [3, 2]
    star = next(found for found in axes.lines if found.get_marker() == "*")
    assert star.get_xydata().tolist() == [[3, 3.0], [2, 4.0]]
    assert "best: 3.500, mean of 2 folds" in texts(drawn[0])
    assert "fold 0, fold 1" in texts(drawn[0])
    assert size(tmp_path / "run.png")[0] == 1600


def test_a_measure_that_a_fold_lacks_has_no_mean(tmp_path):
    files = [metrics(tmp_path / "0.csv", ["mos_loss"]), metrics(tmp_path / "1.csv", [])]
    epochs, mean = mean_over_folds([read_metrics(path) for path in files], "mos_loss")
    assert len(epochs) == len(mean) == 0


UNUSABLE = {
    "": "is empty; expected the columns epoch",
    "epoch,lr\n": "no epoch yet",
    "lr\n0.1\n": "column epoch is missing",
    "epoch,lr\n1,0.1\n2,fast\n": "line 3, column lr: 'fast'",
    "epoch,lr\n,0.1\n": "a row has no epoch",
    "epoch,note\n1,hello\n": "nothing to draw",
}


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), *UNUSABLE.items()])
def test_unusable_metrics_are_refused_in_one_line_and_nothing_is_drawn(tmp_path, content, words):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        draw_curves(path, tmp_path / "curves.png")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "curves.png").exists()


def test_statistics_show_the_counts(tmp_path, drawn):
    draw_statistics(STATISTICS, tmp_path / "statistics.png")
    assert size(tmp_path / "statistics.png") == (1600, 1110)
    figure, words = drawn[0], texts(drawn[0])
    assert "1,500 training photos in 96 groups, 300 test photos" in words
    assert "mean 5.50 (line), sd 1.50 (dashed), 1.25 to 9.75" in words and "red\n0.430 ± 0.270" in words
    assert "median 6 (line), 95% up to 9 (dashed), longest 11" in words
    assert "2,000 captions, 1,800 of them distinct" in words
    bars = panel(figure, "Mean opinion scores (MOS)").patches
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars] == [(1, 3, 300), (4, 3, 900), (7, 3, 300)]
    lines = [found.get_xdata()[0] for found in panel(figure, "Mean opinion scores (MOS)").lines]
    assert lines == [5.5, 4.0, 7.0]
    bars = panel(figure, "Caption lengths").patches
    assert {str(round(bar.get_x() + bar.get_width() / 2)): bar.get_height() for bar in bars} == WORDS["histogram"]


@pytest.mark.parametrize("captions", [None, {"count": 0, "distinct": 0, "words": None, "per_photo": {"0": 5}}])
def test_statistics_say_what_is_missing(tmp_path, drawn, captions):
    missing = {"mos": None, "captions": captions, "channels": {"mean": [0.4], "sd": [0.2]}}
    draw_statistics(STATISTICS | missing, tmp_path / "s.png")
    assert size(tmp_path / "s.png") == (1600, 1110)
    words = texts(drawn[0])
    assert "no photo has a MOS" in words and words.count("no photo has a caption") == 2
    assert "gray\n0.400 ± 0.200" in words


def test_statistics_are_drawn_as_the_data_room_describes_them(tmp_path, drawn):
    import pandas as pd

    from src.data.handcrafted import NAMES
    from src.data.statistics import dataset_statistics

    captions = [("a dark photo", "too dark"), (), ()]
    frame = pd.DataFrame({"mos": [4.0, 6.0, np.nan], "captions": captions, "group": ["a", "b", "c"]})
    frame["part"] = ["train", "train", "test"]
    pixels = np.full((3, 4, 4, 3), 51, np.uint8)
    draw_statistics(dataset_statistics(frame, pixels, np.zeros((3, len(NAMES)), np.float32)), tmp_path / "s.png")
    words = texts(drawn[0])
    assert "2 training photos in 2 groups, 1 test photos" in words
    assert "mean 5.00 (line), sd 1.00 (dashed), 4.00 to 6.00" in words
    assert "2 captions, 2 of them distinct" in words and "blue\n0.200 ± 0.000" in words


def photos(count: int, height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.filterwarnings("error")
def test_examples_keep_every_text_under_its_own_photo(tmp_path, drawn):
    captions = ["$5 and $6 " * 40, "", "A dark photo, but the dog in the snow stands out.", "W" * 70, "Calm. 😀"]
    heads = [f"MOS 6.{number}, label 6.1" for number in range(5)]
    draw_examples(photos(5, 8, 8, 3), heads, captions, tmp_path / "e.png", columns=3)
    figure, width = drawn[0], size(tmp_path / "e.png")[0]
    assert width <= 1600 and len(figure.axes) == 5
    frames = [axes.get_window_extent() for axes in figure.axes]
    below = {number: [] for number in range(5)}
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.y0 >= 0 and not text.get_parse_math() and not any(box.overlaps(frame) for frame in frames)
        column = [number for number, frame in enumerate(frames) if abs(frame.x0 - box.x0) < 2 and box.y1 <= frame.y0]
        owner = min(column, key=lambda number: frames[number].y0 - box.y1)
        assert box.x1 <= frames[owner].x1 + 1
        below[owner].append(text.get_text())
    assert [lines[0] for lines in below.values()] == heads
    assert " ".join(below[2][1:]) == captions[2] and below[1][1:] == ["(no caption)"]
    assert len(below[0]) == 9 and below[0][-1].endswith("…")
    assert "".join(below[3][1:]) == captions[3] and below[4][1:] == ["Calm. 😀"]


def test_examples_show_the_photos_themselves(tmp_path, drawn):
    gray = photos(2, 12, 8, 1)
    draw_examples(gray, ["a", "b"], ["one", "two"], tmp_path / "e.png")
    shown = [axes.images[0] for axes in drawn[0].axes]
    assert all(np.array_equal(image.get_array(), photo[..., 0]) for image, photo in zip(shown, gray, strict=True))
    assert [image.get_clim() for image in shown] == [(0, 255), (0, 255)]
    frame = drawn[0].axes[0].get_window_extent()
    assert frame.height / frame.width == pytest.approx(12 / 8)
    flat = np.full((1, 4, 4, 3), (200, 40, 90), np.uint8)
    draw_examples(flat, ["a"], ["one"], tmp_path / "flat.png")
    with Image.open(tmp_path / "flat.png") as image:
        assert image.convert("RGB").getpixel((image.width // 2, image.width // 2)) == (200, 40, 90)


PAIR = {"photos": photos(2, 4, 4, 3), "titles": ["a", "b"], "captions": ["c", "d"]}
NONE = {"photos": photos(0, 4, 4, 3), "titles": [], "captions": []}
MISFITS = [{"photos": photos(2, 4, 4, 2)}, {"photos": np.zeros((2, 4, 4, 3))}, {"titles": ["a"]}, {"columns": 0}, NONE]


@pytest.mark.parametrize("change", MISFITS, ids=["two channels", "floats", "titles", "columns", "nothing"])
def test_examples_that_do_not_fit_together_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match="photos"):
        draw_examples(**(PAIR | change), out=tmp_path / "e.png")
    assert not list(tmp_path.iterdir())


def test_wrapping_keeps_words_and_order():
    text = "a bright  and\nvivid photo with a tidy composition"
    lines = wrap(text, 1.0, _CAPTION)
    assert len(lines) > 2 and " ".join(lines) == " ".join(text.split())
    assert wrap(text, 1.0, _CAPTION, most=2) == [lines[0], wrap(" ".join(lines[1:]), 1.0, _CAPTION, most=1)[0]]
    assert wrap(" ", 1.0, _CAPTION) == []


def test_an_ablation_shows_every_step_and_skipped_ones_in_grey(tmp_path, drawn):
    scores = [("MOS", True, 0.5), ("MOS", False, 0.4), ("MOS", True, 0.6), ("caption", True, 2.0)]
    rows = [
        {"kind": kind, "step": f"step {i}", "on": on, "score": score, "low": score - 0.1, "high": score + 0.1}
        for i, (kind, on, score) in enumerate(scores)
    ]
    rows[3] |= {"low": None, "high": None}
    draw_ablation(rows, tmp_path / "a.png")
    mos, caption = drawn[0].axes
    dots = [line for line in mos.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [0.5, 0.4, 0.6]
    assert [line.get_color() == GRAY for line in dots] == [False, True, False]
    bars = [list(line.get_xdata()) for line in mos.lines if line.get_marker() != "o"]
    assert bars == [[score - 0.1, score + 0.1] for _, _, score in scores[:3]] and len(caption.lines) == 1
    assert [label.get_text() for label in mos.get_yticklabels()] == ["step 0", "step 1", "step 2"]
    assert size(tmp_path / "a.png")[0] == 1600
    draw_ablation(rows[3:], tmp_path / "a.png")
    assert len(drawn[1].axes) == 1
    draw_ablation([row | {"score": None, "low": None, "high": None} for row in rows[:2]] + rows[3:], tmp_path / "a.png")
    unmeasured, _ = drawn[2].axes
    assert not unmeasured.lines and [text.get_text() for text in unmeasured.texts][1:] == ["–", "–", "not measured"]


def test_equal_content_gives_equal_bytes_whatever_the_callers_settings(tmp_path):
    path = metrics(tmp_path / "fold-0" / "metrics.csv", [])

    def draw() -> list[bytes]:
        draw_curves(path, tmp_path / "c.png")
        draw_statistics(STATISTICS, tmp_path / "s.png")
        draw_examples(photos(1, 8, 8, 3), ["MOS 5"], ["Calm."], tmp_path / "e.png")
        return [(tmp_path / f"{name}.png").read_bytes() for name in "cse"]

    first = draw()
    with matplotlib.rc_context({"font.size": 20, "savefig.bbox": "tight", "axes.grid": False, "lines.marker": "x"}):
        before = dict(matplotlib.rcParams)
        assert draw() == first
        assert dict(matplotlib.rcParams) == before


def test_drawing_needs_neither_pyplot_nor_a_heavy_package():
    code = "import sys, src.plots.training_curves, src.plots.data_histograms, src.plots.example_photos\n"
    code += "print(sorted({'matplotlib.pyplot', 'torch', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    out = tmp_path / "s.png"
    out.write_bytes(b"the former picture")

    def torn(figure, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(OSError, match="disk full"):
        draw_statistics(STATISTICS, out)
    assert out.read_bytes() == b"the former picture" and list(tmp_path.iterdir()) == [out]

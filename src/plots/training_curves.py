"""Training curves: losses, validation scores and the learning rate by epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.plots import style
from src.plots.style import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, WIDTH, heading, panel_title, picture

Series = dict[str, np.ndarray]
"""The columns of one metrics.csv: float [epochs] each, NaN where a cell is empty or not finite."""

_MOST_MARKED_EPOCHS = 40


@dataclass(frozen=True)
class Panel:
    """One plot: its columns with their labels and colours, the column whose best epoch is marked, and a subtitle in
    place of a legend."""

    title: str
    lines: dict[str, tuple[str, str]]
    best: str | None = None
    below: str = ""


PANELS = (
    Panel("MOS loss, training", {"mos_loss": ("MOS loss", BLUE)}, below="mean over photos"),
    Panel(
        "MOS, validation",
        {"val_plcc": ("PLCC", BLUE), "val_srcc": ("SRCC", ORANGE), "val_mos_score": ("score: their mean", INK)},
        best="val_mos_score",
    ),
    Panel("Learning rate", {"lr": ("learning rate", VERMILION)}, below="at the end of each epoch"),
    Panel("Caption loss, training", {"caption_loss": ("caption loss", GREEN)}, below="mean over words"),
    Panel("Length loss, training", {"length_loss": ("length loss", ORANGE)}, below="mean over captions"),
    Panel("Loss, training", {"loss": ("loss", INK)}, below="weighted sum of the losses"),
    Panel("Attention loss, training", {"attention_loss": ("attention loss", PURPLE)}, below="mean over captions"),
    Panel(
        "Rewards of samples, training",
        {"reward": ("reward", GREEN), "baseline": ("baseline", ORANGE), "advantage": ("size of the advantage", BLUE)},
    ),
    Panel(
        "Caption measures, validation",
        {"val_bleu4": ("BLEU-4", BLUE), "val_meteor": ("METEOR", ORANGE), "val_rouge_l": ("ROUGE-L", PURPLE),
         "val_cider_d": ("CIDEr-D", GREEN)},
    ),
    Panel("Caption score, validation", {"val_caption_score": ("score", INK)}, "val_caption_score",
          "weighted sum of the measures"),
    Panel(
        "Word error rate, validation",
        {"val_wer": ("free-running", BLUE), "val_wer_visible": ("gold words visible", ORANGE)},
    ),
)  # fmt: skip


def read_metrics(path: Path) -> Series:
    """The known columns of a metrics.csv; one without any number is left out.

    Raises InputError where the file is absent, has no epoch in it, or a cell is not a number.
    """
    rows = read_rows(path, ("epoch",))
    if not rows:
        raise InputError(f"{path} holds no epoch yet; train first")
    series = {}
    for column in ["epoch", *(column for panel in PANELS for column in panel.lines if column in rows[0].cells)]:
        values = np.empty(len(rows))
        for index, row in enumerate(rows):
            cell = row.cells[column]
            try:
                values[index] = float(cell or "nan")
            except ValueError:
                place = f"{path}, line {row.line}, column {column}"
                raise InputError(f"{place}: {cell!r} is not a number; train again with --fresh") from None
        series[column] = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(series["epoch"]).any():
        raise InputError(f"{path}: a row has no epoch; train again with --fresh")
    return {column: values for column, values in series.items() if not np.isnan(values).all()}


def best_epoch(series: Series, column: str) -> tuple[int, float] | None:
    """Epoch and value of the column's maximum, the earliest of equals, as checkpoints are kept."""
    if column not in series:
        return None
    index = int(np.nanargmax(series[column]))
    return int(series["epoch"][index]), float(series[column][index])


def mean_over_folds(folds: list[Series], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E] and the column's mean [E] over all folds, at the epochs that every fold has reached.

    A mean over those folds only that trained on would jump where one stopped early.
    """
    values = [dict(zip(fold["epoch"], fold[column], strict=True)) for fold in folds if column in fold]
    if len(values) < len(folds):
        return np.empty(0), np.empty(0)
    epochs = sorted(set.intersection(*map(set, values)))
    return np.array(epochs), np.array([np.mean([fold[epoch] for fold in values]) for epoch in epochs])


def _draw_line(axes: Axes, folds: list[Series], column: str, label: str, colour: str) -> None:
    drawn = [fold for fold in folds if column in fold]
    many = len(folds) > 1
    for fold in drawn:
        width = {"linewidth": 0.8, "alpha": 0.45} if many else {"linewidth": 1.8, "label": label}
        marked = len(fold["epoch"]) <= _MOST_MARKED_EPOCHS and not many or len(fold["epoch"]) == 1
        axes.plot(fold["epoch"], fold[column], color=colour, marker="o" if marked else None, markersize=3, **width)
    if many and drawn:
        epochs, mean = mean_over_folds(folds, column)
        axes.plot(epochs, mean, color=colour, linewidth=2.2, label=label, marker="o" if len(epochs) == 1 else None)


def _mark_best(axes: Axes, folds: list[Series], column: str) -> None:
    bests = [best for best in (best_epoch(fold, column) for fold in folds) if best]
    if not bests:
        return
    epochs, values = zip(*bests, strict=True)
    for epoch in sorted(set(epochs)):
        axes.axvline(epoch, color=VERMILION, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
    axes.plot(epochs, values, linestyle="none", marker="*", markersize=10, color=VERMILION, zorder=5)
    if len(folds) == 1:
        style.note(axes, f"best: {values[0]:.3f} in epoch {epochs[0]}")
    else:
        style.note(axes, f"best: {np.mean(values):.3f}, mean of {len(bests)} folds")


def _draw_panel(axes: Axes, folds: list[Series], panel: Panel) -> None:
    lines = {column: line for column, line in panel.lines.items() if any(column in fold for fold in folds)}
    for column, (label, colour) in lines.items():
        _draw_line(axes, folds, column, label, colour)
    if panel.best:
        _mark_best(axes, folds, panel.best)
    panel_title(axes, panel.title, panel.below)
    if not panel.below:
        style.legend(axes, len(lines))
    first = min(fold["epoch"].min() for fold in folds)
    last = max(fold["epoch"].max() for fold in folds)
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.set_xlabel("epoch")


def draw_curves(metrics_csv: Path, out: Path) -> None:
    """Draw the training curves of one fold as a PNG, 1600 pixels wide.

    metrics_csv: one row per epoch; the columns drawn are those of PANELS. A panel without a column is left out.
    Raises InputError where the file is absent, empty or not made of numbers.
    """
    draw_run_curves({metrics_csv.absolute().parent.name.replace("-", " "): metrics_csv}, out)


def draw_run_curves(files: Mapping[str, Path], out: Path) -> None:
    """Draw the training curves of all folds as draw_curves does: each fold thin, their mean thick.

    files: the metrics.csv of each fold by the fold's name, at least one. The mean ends where the first fold stopped; a
    star marks each fold's best epoch.
    """
    folds = [read_metrics(path) for path in files.values()]
    panels = [panel for panel in PANELS if any(fold.keys() & panel.lines.keys() for fold in folds)]
    if not panels:
        raise InputError(f"{out}: there is nothing to draw but epoch numbers; train again with --fresh")
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    with picture(out, WIDTH, 0.55 + 3.15 * rows) as figure:
        for place, panel in enumerate(panels, 1):
            _draw_panel(figure.add_subplot(rows, columns, place), folds, panel)
        names = ", ".join(files) if len(files) <= 4 else f"{len(files)} folds"
        heading(figure, f"Training of {names}" + (": each thin, their mean thick" if len(folds) > 1 else ""))

"""Runs side by side: each score as a dot with its interval, and its baseline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, INK, VERMILION, WIDTH, heading, panel_title, picture

_LONGEST_NAME = 30


@dataclass(frozen=True)
class Panel:
    """One score: its prefix in the rows' keys, the panel's title, the baseline's name, colour, number format."""

    name: str
    title: str
    baseline: str
    colour: str
    form: str


PANELS = (
    Panel("caption", "Caption score", "constant sentence", GREEN, ".2f"),
    Panel("mos", "MOS score", "ridge", BLUE, ".3f"),
)


def _draw_panel(axes: Axes, rows: list[dict], panel: Panel) -> None:
    scored = [(place, row) for place, row in enumerate(rows) if row[f"{panel.name}_score"] is not None]
    panel_title(axes, panel.title)
    axes.grid(False, axis="y")
    if not scored:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no run has this score", transform=axes.transAxes, ha="center", va="center", color=GRAY)
        return
    for place, row in scored:
        score, low, high = (row[f"{panel.name}_{key}"] for key in ("score", "low", "high"))
        if low is not None:
            axes.plot([low, high], [place, place], color=panel.colour, linewidth=3, alpha=0.45)
        label = "score, 95% interval" if place == scored[0][0] else None
        axes.plot(score, place, "o", color=panel.colour, markersize=7.5, label=label)
        axes.annotate(f"{score:{panel.form}}", (score, place), (0, 8), textcoords="offset points", ha="center",
                      fontsize=8.5, color=INK)  # fmt: skip
    _mark(axes, scored, f"{panel.name}_ensemble", marker="o", color=INK, markersize=6, markerfacecolor="white",
          label="ensemble")  # fmt: skip
    _mark(axes, scored, f"{panel.name}_baseline", marker="|", color=VERMILION, markersize=12, markeredgewidth=2.2,
          label=f"baseline: {panel.baseline}")  # fmt: skip
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderaxespad=0.1, handlelength=1.0,
                handletextpad=0.4, columnspacing=0.9, markerscale=0.75)  # fmt: skip
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))


def _mark(axes: Axes, scored: list[tuple[int, dict]], column: str, **style: Any) -> None:
    points = [(row[column], place) for place, row in scored if row[column] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), linestyle="none", **style)


def shortened(name: str, longest: int) -> str:
    """The name, or its beginning and end where it is longer than `longest` characters."""
    tail = longest // 2 - 1
    return name if len(name) <= longest else f"{name[: longest - tail - 1]}…{name[-tail:]}"


def _name_rows(axes: Axes, rows: list[dict]) -> None:
    """The run's name, and below it its encoder, decoder and remarks."""
    names = [shortened(row["run"], _LONGEST_NAME) for row in rows]
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names, fontsize=9.5, color=INK, va="bottom")
    axes.tick_params(axis="y", length=0, pad=6)
    for place, row in enumerate(rows):
        parts = [shortened(row["encoder"] or "", _LONGEST_NAME), row["decoder"]]
        below = f"{' · '.join(filter(None, parts))}\n{shortened(row['remarks'], _LONGEST_NAME)}".strip()
        axes.annotate(below, (0, place), (-6, -2), ("axes fraction", "data"), "offset points", ha="right", va="top",
                      fontsize=7.5, color=GRAY, annotation_clip=False)  # fmt: skip


def draw_comparison(rows: list[dict], out: Path) -> None:
    """Draw runs as rows, the caption score and the MOS score beside each other, as a PNG 1600 pixels wide.

    rows: run, encoder, decoder, remarks, and SCORE_score, SCORE_low, SCORE_high, SCORE_baseline and SCORE_ensemble for
    the SCOREs mos and caption; None for what a run does not have.
    """
    with picture(out, WIDTH, 1.45 + 0.52 * len(rows)) as figure:
        both = figure.subplots(1, 2, sharey=True)
        for axes, panel in zip(both, PANELS, strict=True):
            _draw_panel(axes, rows, panel)
        _name_rows(both[0], rows)
        both[1].tick_params(axis="y", length=0)
        heading(figure, "Scores of the networks out of fold, 95% intervals")

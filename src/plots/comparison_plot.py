"""Runs side by side: each score as a dot with its interval, and its baseline."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, INK, VERMILION, WIDTH, heading, legend, panel_title, picture

_LONGEST_NAME = 30
_PANELS = {"caption": ("Caption score", "constant sentence", GREEN, ".2f"), "mos": ("MOS score", "ridge", BLUE, ".3f")}
"""By the score's prefix in the rows' keys: title, the baseline's name, colour, number format."""


def _draw_panel(axes: Axes, rows: list[dict], name: str) -> None:
    title, baseline, colour, form = _PANELS[name]
    scored = [(place, row) for place, row in enumerate(rows) if row[f"{name}_score"] is not None]
    panel_title(axes, title)
    axes.grid(False, axis="y")
    if not scored:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no run has this score", transform=axes.transAxes, ha="center", va="center", color=GRAY)
        return
    for place, row in scored:
        score, low, high = (row[f"{name}_{key}"] for key in ("score", "low", "high"))
        if low is not None:
            axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.45)
        label = "score, 95% interval" if place == scored[0][0] else None
        axes.plot(score, place, "o", color=colour, markersize=7.5, label=label)
        axes.annotate(f"{score:{form}}", (score, place), (0, 8), textcoords="offset points", ha="center",
                      fontsize=8.5, color=INK)  # fmt: skip
    marks: dict[str, dict[str, Any]] = {
        "ensemble": {"marker": "o", "color": INK, "markersize": 6, "markerfacecolor": "white", "label": "ensemble"},
        "baseline": {"marker": "|", "color": VERMILION, "markersize": 12, "markeredgewidth": 2.2,
                     "label": f"baseline: {baseline}"},
    }  # fmt: skip
    for key, style in marks.items():
        points = [(row[f"{name}_{key}"], place) for place, row in scored if row[f"{name}_{key}"] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", **style)
    legend(axes, 3, markerscale=0.75)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))


def shortened(name: str, longest: int) -> str:
    """The name, or its beginning and end where it is longer than `longest` characters."""
    tail = longest // 2 - 1
    return name if len(name) <= longest else f"{name[: longest - tail - 1]}…{name[-tail:]}"


def draw_comparison(rows: list[dict], out: Path) -> None:
    """Draw runs as rows, the caption score and the MOS score beside each other, as a PNG 1600 pixels wide.

    rows: run, encoder, decoder, remarks, and SCORE_score, SCORE_low, SCORE_high, SCORE_baseline and SCORE_ensemble for
    the SCOREs mos and caption; None for what a run does not have.
    """
    with picture(out, WIDTH, 1.45 + 0.52 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, name in zip((left, right), _PANELS, strict=True):
            _draw_panel(axes, rows, name)
        left.set_ylim(len(rows) - 0.4, -0.6)
        names = [shortened(row["run"], _LONGEST_NAME) for row in rows]
        left.set_yticks(range(len(rows)), names, fontsize=9.5, color=INK, va="bottom")
        left.tick_params(axis="y", length=0, pad=6)
        right.tick_params(axis="y", length=0)
        for place, row in enumerate(rows):  # below the run's name its encoder, decoder and remarks
            parts = [shortened(row["encoder"] or "", _LONGEST_NAME), row["decoder"]]
            below = f"{' · '.join(filter(None, parts))}\n{shortened(row['remarks'], _LONGEST_NAME)}".strip()
            left.annotate(below, (0, place), (-6, -2), ("axes fraction", "data"), "offset points", ha="right",
                          va="top", fontsize=7.5, color=GRAY, annotation_clip=False)  # fmt: skip
        heading(figure, "Scores of the networks out of fold, 95% intervals")

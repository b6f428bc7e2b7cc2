"""What each step of an ensemble adds: its score as a dot with its interval, skipped steps in grey."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, INK, WIDTH, heading, panel_title, picture

_PANELS = {"MOS": ("MOS score", BLUE, ".3f"), "caption": ("Caption score", GREEN, ".2f")}
"""By kind of step: title, colour, number format."""


def _draw_panel(axes: Axes, rows: list[dict]) -> None:
    title, colour, form = _PANELS[rows[0]["kind"]]
    panel_title(axes, title, "gray: off, test photos do not get it")
    axes.grid(False, axis="y")
    for place, row in enumerate(rows):
        shade = colour if row["on"] else GRAY
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=shade, linewidth=3, alpha=0.45)
        if row["score"] is not None:
            axes.plot(row["score"], place, "o", color=shade, markersize=6.5)
        shown = "–" if row["score"] is None else f"{row['score']:{form}}"
        axes.annotate(shown, (1, place), (6, 0), ("axes fraction", "data"), "offset points",
                      va="center", fontsize=8.5, color=INK if row["on"] else GRAY, annotation_clip=False)  # fmt: skip
    if all(row["score"] is None for row in rows):
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GRAY)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row["step"] for row in rows])
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(INK if row["on"] else GRAY)


def draw_ablation(rows: list[dict], out: Path) -> None:
    """Draw the steps as rows, those of the MOS above those of the captions, as a PNG 1600 pixels wide.

    rows: at least one, as `ablation_rows` makes them: kind (MOS or caption), step, on, and score, low and
    high, None where not measured.
    """
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in _PANELS}
    shown = [steps for steps in kinds.values() if steps]
    with picture(out, WIDTH, 0.6 + 0.85 * len(shown) + 0.27 * len(rows)) as figure:
        panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=[len(steps) + 1 for steps in shown])
        for axes, steps in zip(panels[:, 0], shown, strict=True):
            _draw_panel(axes, steps)
        heading(figure, "What each step of the ensemble reaches out of fold, 95% intervals")

"""Histograms of a data set: MOS, caption lengths, captions per photo, and brightness of the colour channels."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, INK, SKY, VERMILION, WIDTH, absent, heading, panel_title, picture

_CHANNELS = {1: (("gray", GRAY),), 3: (("red", VERMILION), ("green", GREEN), ("blue", BLUE))}
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def _mark(axes: Axes, middle: float, *others: float) -> None:
    axes.axvline(middle, color=VERMILION, linewidth=1.8)
    for value in others:
        axes.axvline(value, color=VERMILION, linewidth=1.5, linestyle=(0, (3, 2)))


def _draw_mos(axes: Axes, mos: dict | None) -> None:
    if not mos:
        panel_title(axes, "Mean opinion scores (MOS)")
        return absent(axes, "no photo has a MOS")
    edges, counts = np.array(mos["histogram"]["edges"]), np.array(mos["histogram"]["counts"])
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    _mark(axes, mos["mean"], mos["mean"] - mos["sd"], mos["mean"] + mos["sd"])
    axes.grid(False, axis="x")
    below = f"mean {mos['mean']:.2f} (line), sd {mos['sd']:.2f} (dashed), {mos['min']:.2f} to {mos['max']:.2f}"
    panel_title(axes, "Mean opinion scores (MOS)", below)
    axes.set(xlabel="MOS", ylabel="photos")


def _draw_counts(axes: Axes, histogram: dict[str, int], colour: str) -> None:
    values = [int(value) for value in histogram]
    axes.bar(values, list(histogram.values()), 0.85, color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.set_xlim(min(values) - 0.7, max(values) + 0.7)
    axes.grid(False, axis="x")


def _draw_lengths(axes: Axes, captions: dict | None) -> None:
    words = captions and captions["words"]
    if not words:
        panel_title(axes, "Caption lengths")
        return absent(axes, "no photo has a caption")
    _draw_counts(axes, words["histogram"], GREEN)
    _mark(axes, words["median"], words["p95"])
    below = f"median {words['median']:g} (line), 95% up to {words['p95']:g} (dashed), longest {words['max']}"
    panel_title(axes, "Caption lengths", below)
    axes.set(xlabel="words", ylabel="captions")


def _draw_per_photo(axes: Axes, captions: dict | None) -> None:
    if not captions or not captions["count"]:
        panel_title(axes, "Captions per photo")
        return absent(axes, "no photo has a caption")
    _draw_counts(axes, captions["per_photo"], SKY)
    panel_title(
        axes, "Captions per photo", f"{captions['count']:,} captions, {captions['distinct']:,} of them distinct"
    )
    axes.set(xlabel="captions", ylabel="photos")


def _draw_channels(axes: Axes, channels: dict | None) -> None:
    if not channels:
        panel_title(axes, "Brightness of the channels")
        return absent(axes, "no photo was read")
    mean, sd = channels["mean"], channels["sd"]
    names, colours = zip(*_CHANNELS[len(mean)], strict=True)
    places = np.arange(len(mean))
    axes.bar(places, mean, 0.55, yerr=sd, color=colours, error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 5})
    labels = [f"{name}\n{value:.3f} ± {spread:.3f}" for name, value, spread in zip(names, mean, sd, strict=True)]
    axes.set_xticks(places, labels)
    axes.set_xlim(min(-0.6, len(mean) / 2 - 1.8), max(len(mean) - 0.4, len(mean) / 2 + 0.8))
    axes.set_ylim(0, 1)
    axes.grid(False, axis="x")
    axes.set_ylabel("share of full brightness")
    panel_title(axes, "Brightness of the channels", "mean over all pixels (bar) ± sd (whisker)")


def draw_statistics(statistics: dict, out: Path) -> None:
    """Draw a dataset's statistics as a PNG of 1600 x 1110 pixels: MOS, caption lengths, captions per photo, channels.

    statistics: {"photos": {"train", "test"}, "groups", "channels": {"mean", "sd"} (one number per channel, 0 to 1),
    "mos": {"mean", "sd", "min", "max", "histogram": {"edges", "counts"}}, "captions": {"count", "distinct",
    "words": {"median", "p95", "max", "histogram"}, "per_photo"}}, as statistics.json holds it. A block that is None
    or absent leaves its panel empty but for a note.
    """
    photos = statistics["photos"]
    with picture(out, WIDTH, 7.4) as figure:
        axes = figure.subplots(2, 2)
        for panel in axes.flat:
            panel.yaxis.set_major_formatter(_THOUSANDS)
        _draw_mos(axes[0, 0], statistics.get("mos"))
        _draw_lengths(axes[0, 1], statistics.get("captions"))
        _draw_per_photo(axes[1, 0], statistics.get("captions"))
        axes[1, 1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
        _draw_channels(axes[1, 1], statistics.get("channels"))
        heading(figure, f"{photos['train']:,} training photos in {statistics['groups']:,} groups, "
                        f"{photos['test']:,} test photos")  # fmt: skip

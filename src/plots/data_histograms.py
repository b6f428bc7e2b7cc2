"""Histograms of a data set: MOS, caption lengths, captions per photo, and brightness of the colour channels."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, INK, SKY, VERMILION, WIDTH, absent, heading, panel_title, picture

_CHANNELS = {1: (("gray", GRAY),), 3: (("red", VERMILION), ("green", GREEN), ("blue", BLUE))}


def _mark(axes: Axes, middle: float, *others: float) -> None:
    axes.axvline(middle, color=VERMILION, linewidth=1.8)
    for value in others:
        axes.axvline(value, color=VERMILION, linewidth=1.5, linestyle=(0, (3, 2)))


def _draw_mos(axes: Axes, mos: dict) -> str:
    edges = np.array(mos["histogram"]["edges"])
    axes.bar(edges[:-1], mos["histogram"]["counts"], np.diff(edges), align="edge", color=BLUE, edgecolor="white",
             linewidth=0.5)  # fmt: skip
    _mark(axes, mos["mean"], mos["mean"] - mos["sd"], mos["mean"] + mos["sd"])
    axes.set(xlabel="MOS", ylabel="photos")
    return f"mean {mos['mean']:.2f} (line), sd {mos['sd']:.2f} (dashed), {mos['min']:.2f} to {mos['max']:.2f}"


def _draw_counts(axes: Axes, histogram: dict[str, int], colour: str) -> None:
    values = [int(value) for value in histogram]
    axes.bar(values, list(histogram.values()), 0.85, color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.set_xlim(min(values) - 0.7, max(values) + 0.7)


def _draw_lengths(axes: Axes, captions: dict) -> str:
    words = captions["words"]
    _draw_counts(axes, words["histogram"], GREEN)
    _mark(axes, words["median"], words["p95"])
    axes.set(xlabel="words", ylabel="captions")
    return f"median {words['median']:g} (line), 95% up to {words['p95']:g} (dashed), longest {words['max']}"


def _draw_per_photo(axes: Axes, captions: dict) -> str:
    _draw_counts(axes, captions["per_photo"], SKY)
    axes.set(xlabel="captions", ylabel="photos")
    return f"{captions['count']:,} captions, {captions['distinct']:,} of them distinct"


def _draw_channels(axes: Axes, channels: dict) -> str:
    mean, sd = channels["mean"], channels["sd"]
    names, colours = zip(*_CHANNELS[len(mean)], strict=True)
    places = np.arange(len(mean))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
    axes.bar(places, mean, 0.55, yerr=sd, color=colours, error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 5})
    labels = [f"{name}\n{value:.3f} ± {spread:.3f}" for name, value, spread in zip(names, mean, sd, strict=True)]
    axes.set_xticks(places, labels)
    axes.set_xlim(min(-0.6, len(mean) / 2 - 1.8), max(len(mean) - 0.4, len(mean) / 2 + 0.8))
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of full brightness")
    return "mean over all pixels (bar) ± sd (whisker)"


def draw_statistics(statistics: dict, out: Path) -> None:
    """Draw a dataset's statistics as a PNG of 1600 x 1110 pixels: MOS, caption lengths, captions per photo, channels.

    statistics: {"photos": {"train", "test"}, "groups", "channels": {"mean", "sd"} (one number per channel, 0 to 1),
    "mos": {"mean", "sd", "min", "max", "histogram": {"edges", "counts"}}, "captions": {"count", "distinct",
    "words": {"median", "p95", "max", "histogram"}, "per_photo"}}, as statistics.json holds it. A block that is None
    or absent leaves its panel empty but for a note.
    """
    photos, captions = statistics["photos"], statistics.get("captions")
    captions = captions if captions and captions["count"] else None
    panels = [
        ("Mean opinion scores (MOS)", _draw_mos, statistics.get("mos"), "no photo has a MOS"),
        ("Caption lengths", _draw_lengths, captions and captions["words"] and captions, "no photo has a caption"),
        ("Captions per photo", _draw_per_photo, captions, "no photo has a caption"),
        ("Brightness of the channels", _draw_channels, statistics.get("channels"), "no photo was read"),
    ]
    with picture(out, WIDTH, 7.4) as figure:
        for axes, (title, draw, block, missing) in zip(figure.subplots(2, 2).flat, panels, strict=True):
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            if block:
                axes.grid(False, axis="x")
                panel_title(axes, title, draw(axes, block))
            else:
                panel_title(axes, title)
                absent(axes, missing)
        heading(figure, f"{photos['train']:,} training photos in {statistics['groups']:,} groups, "
                        f"{photos['test']:,} test photos")  # fmt: skip

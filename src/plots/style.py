"""The style of all figures but Optuna's, and how they are saved: whole or not at all, equal bytes for equal content.

No pyplot and no choice of a backend, so that the figures of a notebook or server are not disturbed. A user's
matplotlibrc has no influence: every figure starts from matplotlib's defaults.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from src.base.files import replacing

DPI = 150
WIDTH = 1600 / DPI
"""Width of a full figure in inches."""

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
"""Colours that can be told apart with any colour vision (Okabe and Ito, Color Universal Design, 2008)."""
INK, GRAY = "#222222", "#767676"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a caption may hold a dollar sign
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
}


@contextlib.contextmanager
def boxes_for_missing_glyphs() -> Iterator[None]:
    """Draw a letter that the font lacks, such as an emoji, as a box without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@contextlib.contextmanager
def picture(out: Path, width: float, height: float, constrained: bool = True) -> Iterator[Figure]:
    """Yield an empty figure of width x height inches, saved as the PNG file `out` when the block ends, whole or not.

    constrained: matplotlib lays the axes out. The caller's matplotlib settings are restored afterwards.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09, wspace=0.03, hspace=0.03) if constrained else None
    with matplotlib.style.context(["default", _STYLE]), boxes_for_missing_glyphs():
        figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        with replacing(out) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def heading(figure: Figure, text: str) -> None:
    """The figure's title, flush left."""
    figure.suptitle(text, x=0.01, ha="left")


def panel_title(axes: Axes, title: str, below: str = "") -> None:
    """The panel's title and, under it, a line of explanation or (left empty) room for a legend."""
    axes.set_title(title, pad=20)
    axes.annotate(below, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=8.5, color=GRAY, va="bottom")


def legend(axes: Axes, columns: int, **style: float) -> None:
    """The legend in the room that panel_title leaves for it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.1, handlelength=1.0,
                handletextpad=0.4, columnspacing=0.9, **style)  # fmt: skip


def note(axes: Axes, text: str) -> None:
    """A remark in the panel's lower right corner."""
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"}
    axes.text(0.985, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=INK, bbox=box)


def absent(axes: Axes, text: str) -> None:
    """Say in an empty panel why nothing is drawn."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GRAY)

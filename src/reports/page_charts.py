"""Charts as inline SVG: small, in the page's own colours in light, dark and print, each with the same in words.

Coordinates are those of a viewBox WIDTH x HEIGHT, which the page stretches to the width it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from src.reports.page_parts import Chart, number

WIDTH, HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 22, 34
_DOTS = 2000
"""Points up to which each is drawn; more are counted in cells."""
_FEW_DOTS = 200
"""Points below which they are drawn larger."""
_CELLS = 36
_LEVELS = 6
_MOST_POINTS = 200
"""Of a line; a longer one is thinned."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart. colour: a class of the page's style, a to e. label: "" for none."""

    x: np.ndarray
    y: np.ndarray
    colour: str
    label: str = ""


@dataclass
class Plane:
    """A pair of axes with ticks, on which marks are put as SVG."""

    x: Range
    y: Range
    x_label: str
    y_label: str
    whole_x: bool = False

    def __post_init__(self) -> None:
        self.x_ticks, self.y_ticks = _ticks(self.x, 6, self.whole_x), _ticks(self.y, 5)
        self.marks: list[str] = []

    def px(self, x: float) -> str:
        low, high = self.x
        return f"{_LEFT + (x - low) / (high - low or 1) * (WIDTH - _LEFT - _RIGHT):.1f}"

    def py(self, y: float) -> str:
        low, high = self.y
        return f"{HEIGHT - _BOTTOM - (y - low) / (high - low or 1) * (HEIGHT - _TOP - _BOTTOM):.1f}"

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line between two points."""
        self.marks.append(
            f'<line x1="{self.px(x1)}" y1="{self.py(y1)}" x2="{self.px(x2)}" y2="{self.py(y2)}" class="{style}"/>'
        )

    def path(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, style: str) -> None:
        """A line through points; one point alone is a dot."""
        places = [f"{self.px(a)},{self.py(b)}" for a, b in zip(x, y, strict=True)]
        if len(places) == 1:
            self.dots(x, y, f"dot {style.split()[-1]}", 3)
        elif places:
            self.marks.append(f'<path d="M{" ".join(places)}" class="{style}"/>')

    def dots(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, style: str, radius: float) -> None:
        """Points as dots, in one path: strokes without a length and with round ends."""
        places = "".join(f"M{self.px(a)},{self.py(b)}h0" for a, b in zip(x, y, strict=True))
        self.marks.append(f'<path d="{places}" class="{style}" style="stroke-width:{2 * radius:g}"/>')

    def bars(self, edges: np.ndarray, heights: np.ndarray, style: str) -> None:
        """Bars from 0, in one path."""
        base, d = self.py(0), ""
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            gap = 0.04 * (right - left)
            if height:
                d += f"M{self.px(left + gap)},{base}V{self.py(height)}H{self.px(right - gap)}V{base}z"
        self.marks.append(f'<path d="{d}" class="{style}"/>')

    def svg(self, text: str) -> Markup:
        """The whole picture."""
        right, low = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">']
        for tick, shown in self.y_ticks:
            y = self.py(tick)
            parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}" class="grid"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy=".32em" class="end">{shown}</text>')
        for tick, shown in self.x_ticks:
            parts.append(f'<text x="{self.px(tick)}" y="{low + 14}" class="mid">{shown}</text>')
        parts.append(f'<line x1="{_LEFT}" y1="{low}" x2="{right}" y2="{low}" class="axis"/>')
        parts.append(f'<text x="{right}" y="{HEIGHT - 4}" class="end">{escape(self.x_label)}</text>')
        parts.append(f'<text x="0" y="10">{escape(self.y_label)}</text>')
        return Markup("".join([*parts, *self.marks, "</svg>"]))


def _ticks(span: Range, most: int, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers within a span, with how they are written."""
    if not span[1] > span[0]:
        return [(span[0], number(span[0], "g"))]
    locator = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=2)
    values = [float(tick) for tick in locator.tick_values(*span) if span[0] - 1e-12 <= tick <= span[1] + 1e-12]
    if max(map(abs, values), default=0) >= 10_000:
        return [(value, number(value / 1000, "g") + "k" if value else "0") for value in values]
    return [(value, number(round(value, 10), "g")) for value in values]


def _widened(values: np.ndarray, share: float = 0.05) -> Range:
    low, high = float(values.min()), float(values.max())
    room = (high - low) * share or max(abs(low), 1) * share
    return low - room, high + room


def scatter_chart(predicted: np.ndarray, truth: np.ndarray) -> Chart:
    """Predictions [N] against labels [N]: dots, or above _DOTS photos a map of counts."""
    span = _widened(np.concatenate([predicted, truth]), 0.02)
    plane = Plane(span, span, "predicted MOS", "label")
    plane.line(span[0], span[0], span[1], span[1], "guide")
    if len(truth) <= _DOTS:
        few = len(truth) < _FEW_DOTS
        plane.dots(predicted, truth, "dot a" if few else "dot cloud a", 2.6 if few else 1.7)
    else:
        counts, edges, _ = np.histogram2d(predicted, truth, _CELLS, (span, span))
        level = np.ceil(np.sqrt(counts / counts.max()) * _LEVELS).astype(int)
        side = [(WIDTH - _LEFT - _RIGHT) / _CELLS, (HEIGHT - _TOP - _BOTTOM) / _CELLS]
        for shade in range(1, _LEVELS + 1):
            cells = "".join(
                f"M{plane.px(edges[i])},{plane.py(edges[j])}h{side[0]:.1f}v-{side[1]:.1f}h-{side[0]:.1f}z"
                for i, j in np.argwhere(level == shade).tolist()
            )
            plane.marks.append(f'<path d="{cells}" class="cell a" style="opacity:{shade / _LEVELS:.2f}"/>')
    text = (
        f"{len(truth):,} photos: predictions from {number(predicted.min(), '.2f')} to {number(predicted.max(), '.2f')} "
        f"against labels from {number(truth.min(), '.2f')} to {number(truth.max(), '.2f')}"
    )
    note = "the dashed line: label and prediction are equal" + ("; darker: more photos" if len(truth) > _DOTS else "")
    return Chart("Label against prediction", plane.svg(text), text, note)


def residual_chart(predicted: np.ndarray, truth: np.ndarray) -> Chart:
    """Histogram of label minus prediction."""
    residual = truth - predicted
    farthest = float(np.abs(residual).max()) or 1.0
    counts, edges = np.histogram(residual, 33, (-farthest, farthest))
    plane = Plane((-farthest, farthest), (0, float(counts.max()) * 1.05), "label − prediction", "photos")
    plane.bars(edges, counts, "bar a")
    plane.line(0, 0, 0, plane.y[1], "guide")
    within = np.quantile(np.abs(residual), [0.5, 0.9])
    text = (
        f"Residuals: mean {number(residual.mean(), '+.3f')}, root mean square {np.sqrt((residual**2).mean()):.3f}; "
        f"half of the photos within {within[0]:.2f}, nine of ten within {within[1]:.2f}"
    )
    return Chart("Residuals", plane.svg(text), text, text.removeprefix("Residuals: "))


def calibration_chart(predicted: np.ndarray, truth: np.ndarray) -> Chart:
    """Mean label by decile of the predictions, with its 95% interval."""
    groups = [group for group in np.array_split(np.argsort(predicted, kind="stable"), 10) if len(group)]
    x, y = (np.array([values[group].mean() for group in groups]) for values in (predicted, truth))
    half = np.array([1.96 * truth[g].std(ddof=1) / np.sqrt(len(g)) if len(g) > 1 else 0.0 for g in groups])
    span = _widened(np.concatenate([x, y - half, y + half]))
    plane = Plane(span, span, "mean prediction of a tenth of the photos", "mean label")
    plane.line(span[0], span[0], span[1], span[1], "guide")
    for place, mean, room in zip(x, y, half, strict=True):
        plane.line(place, mean - room, place, mean + room, "range b")
    plane.dots(x, y, "dot b", 3.4)
    off = int(np.argmax(np.abs(y - x)))
    text = "Calibration by decile, prediction and label: " + ", ".join(
        f"{number(a, '.2f')} and {number(b, '.2f')}" for a, b in zip(x, y, strict=True)
    )
    note = f"farthest off: labels {number(y[off] - x[off], '+.2f')} where {number(x[off], '.2f')} is predicted"
    return Chart("Calibration by decile", plane.svg(text), text, note)


def histogram_chart(title: str, edges: np.ndarray, counts: np.ndarray, label: str, text: str) -> Chart:
    """Counts [B] between edges [B + 1]."""
    plane = Plane((float(edges[0]), float(edges[-1])), (0, float(counts.max()) * 1.05), label, "photos")
    plane.bars(edges, counts, "bar a")
    return Chart(title, plane.svg(text), text)


def lengths_chart(written: np.ndarray, people: np.ndarray) -> Chart:
    """Shares of captions by their number of words [W]: of the run as bars, of people as a line (empty: unknown)."""
    shares = [counts / max(counts.sum(), 1) for counts in (written, people)]
    last = max(int(np.flatnonzero(counts).max(initial=1)) for counts in (written, people))
    top = max(float(share.max(initial=0)) for share in shares) * 105
    plane = Plane((-0.5, last + 0.5), (0, top), "words", "% of captions", whole_x=True)
    plane.bars(np.arange(last + 2) - 0.5, 100 * shares[0][: last + 1], "bar a")
    mean = [float((counts * np.arange(len(counts))).sum() / max(counts.sum(), 1)) for counts in (written, people)]
    text = f"The run writes {mean[0]:.1f} words on average"
    note = "bars: the run"
    if people.sum():
        plane.path(np.arange(last + 1), 100 * shares[1][: last + 1], "line b")
        text, note = f"{text}, people {mean[1]:.1f}", f"{note}; line: people"
    return Chart("Words in a caption", plane.svg(text), text, f"{note}. {text}")


def lines_chart(title: str, lines: Sequence[Line], label: str, note: str, text: str) -> Chart:
    """Lines over whole numbers, such as epochs; those without a label are faint."""
    x, y = (np.concatenate([getattr(line, axis) for line in lines]).astype(float) for axis in "xy")
    plane = Plane(
        _widened(x, 0.02) if np.ptp(x) else (x[0] - 1, x[0] + 1), _widened(y[np.isfinite(y)]), label, "", True
    )
    for line in lines:
        kept = np.isfinite(line.y)
        step = -(-int(kept.sum()) // _MOST_POINTS) or 1
        plane.path(line.x[kept][::step], line.y[kept][::step], f"line {'' if line.label else 'faint '}{line.colour}")
    return Chart(title, plane.svg(text), text, note)


def trials_chart(scores: Sequence[float | None]) -> Chart:
    """The score of each trial, and the best so far as a line."""
    done = [(place, score) for place, score in enumerate(scores) if score is not None]
    x, y = np.array([place for place, _ in done], float), np.array([score for _, score in done])
    plane = Plane((-0.5, len(scores) - 0.5), _widened(y, 0.1), "trial", "score", whole_x=True)
    plane.path(x, np.maximum.accumulate(y), "line faint b")
    plane.dots(x, y, "dot a", 3)
    text = f"{len(done)} of {len(scores)} trials have a score, the best {y.max():.4f} in trial {int(x[y.argmax()])}"
    return Chart("Score of each trial", plane.svg(text), text, "dots: trials; line: the best so far")


def strip(score: float, low: float | None, high: float | None, marks: Sequence[tuple[str, float]], text: str) -> Markup:
    """A score and its interval on one line, with ticks for what it is compared with."""
    values = np.array([score, *(v for v in (low, high) if v is not None), *(value for _, value in marks)])
    first, last = _widened(values, 0.08)

    def px(value: float) -> str:
        return f"{8 + (value - first) / (last - first) * (WIDTH - 16):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} 26" role="img" aria-label="{escape(text)}" class="strip">']
    parts.append(f'<line x1="8" y1="13" x2="{WIDTH - 8}" y2="13" class="grid"/>')
    parts += [f'<line x1="{px(v)}" y1="5" x2="{px(v)}" y2="21" class="tick {style}"/>' for style, v in marks]
    if low is not None and high is not None:
        parts.append(f'<line x1="{px(low)}" y1="13" x2="{px(high)}" y2="13" class="range a"/>')
    parts.append(f'<circle cx="{px(score)}" cy="13" r="5" class="point"/></svg>')
    return Markup("".join(parts))


def range_bar(score: float | None, low: float | None, high: float | None, span: Range) -> Markup:
    """A score with its interval on the scale of all rows of a table, beside the figures that it repeats."""
    if score is None:
        return Markup("")
    first, last = span

    def px(value: float) -> str:
        return f"{4 + (value - first) / (last - first or 1) * 92:.1f}"

    bounds = "" if low is None or high is None else f", 95% interval {low:.3f} to {high:.3f}"
    line = "" if not bounds else f'<line x1="{px(low or 0)}" y1="7" x2="{px(high or 0)}" y2="7" class="range a"/>'
    return Markup(
        f'<svg viewBox="0 0 100 14" role="img" aria-label="{score:.3f}{bounds}" class="bar-cell">{line}'
        f'<circle cx="{px(score)}" cy="7" r="3.2" class="point"/></svg>'
    )

"""Figures of a hyperparameter search: history, scores by setting, importance, and the Pareto front of two scores."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.plots.style import BLUE, GRAY, GREEN, ORANGE, VERMILION, WIDTH, absent, heading, panel_title, picture

_COLUMNS = 3
_LONGEST_LABEL = 12  # letters of a choice under an axis


@dataclass(frozen=True)
class FinishedTrial:
    """A trial: its number, its state (complete, pruned, fail), its scores (empty unless complete), its settings."""

    number: int
    state: str
    scores: list[float]
    params: dict[str, Any]


def _scored(trials: list[FinishedTrial], place: int) -> tuple[np.ndarray, np.ndarray]:
    scored = [(trial.number, trial.scores[place]) for trial in trials if trial.state == "complete"]
    return np.array([n for n, _ in scored]), np.array([score for _, score in scored])


def draw_history(trials: list[FinishedTrial], names: list[str], out: Path) -> None:
    """Draw each trial's score, the best so far, and where trials were pruned or failed, a panel per score."""
    with picture(out, WIDTH, 0.6 + 3.2 * len(names)) as figure:
        for place, name in enumerate(names):
            axes = figure.add_subplot(len(names), 1, place + 1)
            numbers, scores = _scored(trials, place)
            axes.plot(numbers, scores, "o", color=BLUE, markersize=6, label="score")
            if len(scores):
                axes.step(numbers, np.maximum.accumulate(scores), where="post", color=VERMILION, label="best so far")
            for state, colour in (("pruned", ORANGE), ("fail", GRAY)):
                ended = [trial.number for trial in trials if trial.state == state]
                label = f"{state}: no score" if ended else None
                bottom = axes.get_xaxis_transform()
                axes.plot(ended, [0.03] * len(ended), "x", color=colour, transform=bottom, label=label)
            panel_title(axes, name)
            axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, borderaxespad=0.1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_xlabel("trial")
        heading(figure, f"The search, {len(trials)} trials")


def draw_slices(trials: list[FinishedTrial], names: list[str], out: Path) -> None:
    """Draw the scores against each setting's values, one row of panels per score."""
    keys = list(trials[0].params)
    columns = min(_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    with picture(out, WIDTH, 0.6 + 3.0 * rows * len(names)) as figure:
        grid = figure.add_gridspec(rows * len(names), columns)
        for place, name in enumerate(names):
            for index, key in enumerate(keys):
                row, column = divmod(index, columns)
                axes = figure.add_subplot(grid[place * rows + row, column])
                _draw_slice(axes, [trial for trial in trials if trial.state == "complete"], key, place)
                panel_title(axes, key, name)
        heading(figure, "The score against each setting")


def _draw_slice(axes: Axes, scored: list[FinishedTrial], key: str, place: int) -> None:
    values = [trial.params[key] for trial in scored]
    scores = [trial.scores[place] for trial in scored]
    numbers = [trial.number for trial in scored]
    if any(isinstance(value, (bool, str, type(None))) for value in values):
        choices = sorted(map(str, set(values)))
        values = [choices.index(str(value)) for value in values]
        axes.set_xticks(range(len(choices)), [choice[:_LONGEST_LABEL] for choice in choices])
    elif values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.scatter(values, scores, c=numbers, cmap="viridis", s=36)


def draw_importance(shares: dict[str, dict[str, float]], out: Path) -> None:
    """Draw the share of a score's variance that each setting explains. shares: by score, then by setting."""
    most = max(map(len, shares.values()), default=4)
    with picture(out, WIDTH, 1.2 + 0.35 * most * max(len(shares), 1)) as figure:
        if not shares:
            absent(figure.add_subplot(), "too few different scores to say which setting mattered")
        for place, (name, by_key) in enumerate(shares.items()):
            axes = figure.add_subplot(len(shares), 1, place + 1)
            bars = sorted(by_key.items(), key=lambda bar: bar[1])
            axes.barh([key for key, _ in bars], [share for _, share in bars], color=GREEN)
            axes.set_xlim(0, 1)
            panel_title(axes, name, "share of the variance between trials that a setting explains (fANOVA)")
        heading(figure, "Importance of each setting")


def draw_pareto(trials: list[FinishedTrial], names: list[str], front: list[int], winner: int, out: Path) -> None:
    """Draw two scores against each other. front: the trials that no other one beats in both; winner: one of them."""
    with picture(out, WIDTH * 0.6, WIDTH * 0.5) as figure:
        axes = figure.add_subplot()
        scored = {trial.number: trial.scores for trial in trials if trial.state == "complete"}
        axes.plot(*zip(*scored.values(), strict=True), "o", color=GRAY, alpha=0.6, label="trial")
        best = sorted(scored[number] for number in front)
        axes.plot(*zip(*best, strict=True), "o-", color=BLUE, label="Pareto front")
        axes.plot(scored[winner][0], scored[winner][1], "*", color=VERMILION, markersize=14, label="best.yaml")
        for number in front:
            axes.annotate(
                str(number), (scored[number][0], scored[number][1]), (5, 5), textcoords="offset points", fontsize=8.5
            )
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.legend(loc="lower left")
        panel_title(axes, "Trials by their two scores")

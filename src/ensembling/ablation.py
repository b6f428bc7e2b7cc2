"""What each step of an ensemble adds: its score out of fold, and the gain over the step it starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.base.csv_files import write_csv
from src.base.text_table import text_table
from src.metrics.bootstrap import interval
from src.metrics.caption_scores import CaptionScores
from src.metrics.competition_score import caption_score, resampled_caption_scores
from src.metrics.mos_score import FEWEST, is_measurable, mos_score, resampled_mos_scores
from src.metrics.significance import paired
from src.settings.schema import CaptionWeights


@dataclass(frozen=True)
class AblationStep:
    """A step, and whether the predictions of test photos take it.

    side_branch: the next step starts from the one before this.
    """

    name: str
    on: bool
    side_branch: bool = False


@dataclass(frozen=True)
class ScoredStep:
    """A step scored: of what (MOS or caption), and its score in each resample; None and empty where not measured."""

    kind: str
    step: str
    on: bool
    score: float | None
    resampled: np.ndarray
    photos: int
    side_branch: bool = False
    distinct: float | None = None
    """Of captions: the share of distinct ones."""


def score_mos_step(
    step: AblationStep, predicted: np.ndarray, truth: np.ndarray, resamples: int, seed: int
) -> ScoredStep:
    """predicted, truth: MOS of the labelled photos [photos]."""
    score, resampled = None, np.zeros(0)
    if is_measurable(truth):
        resampled = resampled_mos_scores(predicted, truth, resamples, seed)
        score = mos_score(predicted, truth)["score"]
    return ScoredStep("MOS", step.name, step.on, score, resampled, len(truth), step.side_branch)


def score_caption_step(
    step: AblationStep, scores: CaptionScores, distinct: float, weights: CaptionWeights, resamples: int, seed: int
) -> ScoredStep:
    """scores: of the captioned photos. distinct: share of the captions of all photos."""
    resampled = resampled_caption_scores(scores, weights, resamples, seed)
    score = caption_score(scores.totals(), weights)
    return ScoredStep("caption", step.name, step.on, score, resampled, scores.photos, step.side_branch, distinct)


def ablation_rows(steps: Sequence[ScoredStep]) -> list[dict]:
    """One row a step: kind, step, on, photos, score with its 95% interval, gain over the step that it starts from with
    that of the paired bootstrap; None where a kind begins, and where there are too few photos for an interval; no
    score where none was measured. And the share of distinct captions."""
    rows: list[dict] = []
    above: ScoredStep | None = None
    for step in steps:
        low, high = interval(step.resampled) if len(step.resampled) and step.photos >= FEWEST else (None, None)
        row = {"kind": step.kind, "step": step.step, "on": step.on, "photos": step.photos, "score": step.score}
        row |= {"low": low, "high": high, "gain": None, "gain_low": None, "gain_high": None, "p": None}
        before = above.score if above and above.kind == step.kind and step.photos >= FEWEST else None
        if above and before is not None and step.score is not None:
            test = paired(step.score - before, step.resampled - above.resampled, step.photos)
            row |= {"gain": test.difference, "gain_low": test.low, "gain_high": test.high, "p": test.p}
        rows.append(row | {"distinct": step.distinct})
        above = above if step.side_branch else step
    return rows


def write_ablation_csv(path: Path, rows: Sequence[dict]) -> None:
    """Every figure in full."""
    columns = ("kind", "step", "on", "photos", "score", "low", "high", "gain", "gain_low", "gain_high", "p", "distinct")
    shown = [row | {"on": "on" if row["on"] else "off"} for row in rows]
    write_csv(path, columns, [[row[name] for name in columns] for row in shown])


def ablation_text(rows: Sequence[dict], resamples: int) -> str:
    """Aligned columns; steps that test photos do not get are off."""
    title = (
        f"What each step adds to the one it starts from, out of fold, {resamples} resamples; off: not for test photos"
    )
    cells = [["", "", "score", "95%", "gain", "95%", "distinct", ""]]
    for row in rows:
        form = ".4f" if row["kind"] == "MOS" else ".3f"
        score = "not measured" if row["score"] is None else f"{row['score']:{form}}"
        shown = [score, _interval(row, "", form), _number(row["gain"], f"+{form}")]
        off = "" if row["on"] else "off"
        distinct = _number(row["distinct"], ".0%")
        cells.append([row["kind"], row["step"], *shown, _interval(row, "gain_", f"+{form}"), distinct, off])
    return f"{title}\n{text_table(cells, '<<>>>>><', '  ')}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _interval(row: dict, name: str, form: str) -> str:
    low, high = row[f"{name}low"], row[f"{name}high"]
    return "" if low is None else f"[{low:{form}}, {high:{form}}]"

"""What a study found: the table of its trials, the winner as a config, and the numbers behind the pictures."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from src.base.errors import InputError
from src.base.files import write_text
from src.plots.tuning_plots import FinishedTrial, draw_history, draw_importance, draw_pareto, draw_slices
from src.settings.load import as_yaml, changed
from src.settings.schema import Settings
from src.settings.yaml_files import as_text
from src.tuning.study import Study

NAMES = {"mos": ["MOS score"], "caption": ["caption score"], "mean": ["mean score"]} | {
    "both": ["MOS score", "caption score"]
}


def rows_of(study: Study, objective: str) -> list[dict[str, Any]]:
    """One row per finished trial: trial, state, its scores, epochs, what was tried, the reason where it has no score.

    They hold no times, so that equal studies give equal files.
    """
    rows = []
    for trial in study.finished():
        scores = (trial.values or []) if trial.state == TrialState.COMPLETE else []
        named = dict(zip(NAMES[objective], [*scores, "", ""], strict=False))
        reason = trial.user_attrs.get("reason", "")
        if trial.state == TrialState.PRUNED:
            reason = f"its last score was {trial.value}" if trial.value is not None else ""
        told = {"trial": trial.number, "state": trial.state.name.lower(), **named, "epochs": trial.last_step or ""}
        rows.append(told | {key: as_text(trial.params[key]) for key in study.plan.space} | {"reason": reason})
    return rows


def winner_of(study: Study, objective: str) -> FrozenTrial:
    """The trial of the greatest score; of two scores, that of the Pareto front whose ranks add up to the least.

    The first of equals. Raises InputError where no trial has a score.
    """
    scored = _scored(study)
    if not scored:
        reasons = [trial.user_attrs.get("reason", "") for trial in study.finished()]
        why = next(filter(None, reasons), "pruned")
        raise InputError(f"none of the {len(reasons)} trials has a score; the first reason: {why}")
    if objective != "both":
        return max(scored, key=lambda trial: trial.value)
    front = pareto_front(scored)
    ranked = [sorted((trial.values[i] for trial in front), reverse=True) for i in (0, 1)]
    return min(front, key=lambda trial: sum(ranked[i].index(trial.values[i]) for i in (0, 1)))


def pareto_front(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that no other one equals or beats in both scores while beating it in one."""

    def beaten(trial: FrozenTrial) -> bool:
        others = (other.values for other in trials)
        return any(a >= trial.values[0] and b >= trial.values[1] and [a, b] != trial.values for a, b in others)

    return [trial for trial in trials if not beaten(trial)]


def _scored(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.finished() if trial.state == TrialState.COMPLETE]


def as_config(settings: Settings, winner: FrozenTrial, objective: str, trials: int) -> str:
    """The run's settings with the winner's, as YAML with what differs from the defaults, the folds' choice apart."""
    scores = ", ".join(f"{n} {v:.4f}" for n, v in zip(NAMES[objective], winner.values, strict=True))
    title = f"# Trial {winner.number} of {trials}: {scores} on the validation photos that it was chosen by."
    return f"{title}\n{as_yaml(changed(settings, winner.params, 'the winner'), 'train.fold')}"


def write_results(study: Study, settings: Settings, objective: str, folder: Path) -> list[str]:
    """Write trials.csv, best.yaml and the pictures; the names of those that count."""
    winner, rows, names = winner_of(study, objective), rows_of(study, objective), NAMES[objective]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "trials.csv", text.getvalue())
    write_text(folder / "best.yaml", as_config(settings, winner, objective, study.plan.trials))
    tried = [
        FinishedTrial(trial.number, trial.state.name.lower(), trial.values or [], trial.params)
        for trial in study.finished()
    ]
    draw_history(tried, names, folder / "history.png")
    draw_slices(tried, names, folder / "slices.png")
    draw_importance(importance(study, names), folder / "importance.png")
    if len(names) > 1:
        front = [trial.number for trial in pareto_front(_scored(study))]
        draw_pareto(tried, names, front, winner.number, folder / "pareto.png")
    return ["best.yaml", "trials.csv"]


def importance(study: Study, names: list[str]) -> dict[str, dict[str, float]]:
    """For each score the share of its variance that each setting explains (fANOVA, Hutter et al. 2014).

    Empty where there are fewer than four scores, or all are the same.
    """
    found = {}
    for place, name in enumerate(names):
        values = {trial.values[place] for trial in _scored(study)}
        if len(values) > 1 and len(_scored(study)) > 3:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = optuna.importance.get_param_importances(
                    study.study,
                    evaluator=FanovaImportanceEvaluator(seed=0),
                    target=lambda trial, place=place: trial.values[place],
                )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The trials as text, one line each."""
    if not rows:
        return "no trial is finished yet"
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

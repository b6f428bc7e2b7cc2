"""What a study found: the table of its trials, and the best one as a config."""

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.base.csv_files import write_csv
from src.base.errors import InputError
from src.base.files import write_json, write_text
from src.base.text_table import text_table
from src.settings.load import as_yaml, changed
from src.settings.schema import Settings
from src.settings.yaml_files import as_text
from src.tuning.judgement import Verdict
from src.tuning.study import Study

SCORE_NAMES = {
    "mos": ["MOS score"],
    "caption": ["caption score"],
    "mean": ["mean score"],
    "both": ["MOS score", "caption score"],
}
"""The scores of a trial, by tune.objective."""


def table_rows(study: Study, objective: str) -> list[dict[str, Any]]:
    """One row per finished trial: trial, state, scores, epochs, settings, and the reason where it has no score.

    They hold no times, so that equal studies give equal files, which Optuna's own dataframe does not.
    """
    rows = []
    for trial in study.finished():
        scores = trial.values if trial.state == TrialState.COMPLETE else [""] * len(SCORE_NAMES[objective])
        reason = trial.user_attrs.get("reason", "")
        if trial.state == TrialState.PRUNED:
            reason = f"its last score was {trial.value}" if trial.value is not None else ""
        rows.append(
            {"trial": trial.number, "state": trial.state.name.lower()}
            | dict(zip(SCORE_NAMES[objective], scores, strict=True))
            | {"epochs": trial.last_step or ""}
            | {key: as_text(trial.params[key]) for key in study.plan.space}
            | {"reason": reason}
        )
    return rows


def best_trial(study: Study, objective: str) -> FrozenTrial:
    """The trial with the highest score; of two scores, the one on the Pareto front with the lowest sum of ranks.

    The first of equals. Raises InputError where no trial has a score.
    """
    complete = [trial for trial in study.finished() if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [trial.user_attrs.get("reason", "") for trial in study.finished()]
        reason = next(filter(None, reasons), "pruned")
        raise InputError(f"none of the {len(reasons)} trials has a score; the first reason: {reason}")
    if objective != "both":
        return max(complete, key=lambda trial: trial.values[0])
    front = sorted(finished_study(study, objective).best_trials, key=lambda trial: trial.number)
    ranked = [sorted((trial.values[i] for trial in front), reverse=True) for i in (0, 1)]
    return min(front, key=lambda trial: sum(ranked[i].index(trial.values[i]) for i in (0, 1)))


def finished_study(study: Study, objective: str) -> optuna.Study:
    """A copy in memory of the trials that ended, for Optuna's own analyses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        copy = optuna.create_study(directions=["maximize"] * len(SCORE_NAMES[objective]))
        copy.set_metric_names(SCORE_NAMES[objective])
    copy.add_trials(study.finished())
    return copy


def write_results(study: Study, settings: Settings, objective: str, folder: Path, verdict: Verdict) -> list[str]:
    """Write trials.csv, judge.json, and best.yaml: what differs from the defaults in the settings that won.

    They are those of the best trial, or the settings as they are. Returns the files' names.
    """
    best = best_trial(study, objective)
    rows = table_rows(study, objective)
    write_csv(folder / "trials.csv", list(rows[0]), [list(row.values()) for row in rows])
    scores = ", ".join(f"{name} {v:.4f}" for name, v in zip(SCORE_NAMES[objective], best.values, strict=True))
    trial = f"{best.number} of {study.plan.trials}"
    title = f"Best trial: {trial}, {scores} on the validation photos that it was chosen by"
    winner = changed(settings, best.params, "the winner") if verdict.won else settings
    write_text(folder / "best.yaml", f"# {title}; {verdict.sentence}.\n{as_yaml(winner, 'train.fold')}")
    write_json(folder / "judge.json", {**verdict.record(), "trial": best.number})
    return ["best.yaml", "judge.json", "trials.csv"]


def as_table(rows: list[dict[str, Any]]) -> str:
    """The trials as text, one line each."""
    if not rows:
        return "no trial is finished yet"
    texts = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return text_table([list(rows[0]), *texts])

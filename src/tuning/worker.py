"""One worker: claims trials until all that were asked for are finished, whoever finishes them."""

import math
import time
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from src.base.errors import InputError, hint_of
from src.base.text import one_line
from src.settings.yaml_files import ConfigError
from src.tuning.study import Claim, Study, TakenOver

Objective = Callable[[Claim], list[float]]
"""Trains or decodes with a claim's settings; the scores to be made great."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the trials of others, when there is nothing else to do."""


def run_worker(study: Study, objective: Objective, label: str) -> None:
    """Work on the study until it has all its trials. A trial that fails for its own reasons counts as one.

    Others' last trials are waited for: should their workers die, they are taken over.
    """
    with tqdm(total=study.plan.trials, desc=label, unit="trial", disable=None) as bar:
        while len(done := study.finished()) < study.plan.trials:
            _show(bar, done)
            claim = study.claim()
            if claim is None:
                time.sleep(LOOK_EVERY)
            else:
                _attempt(study, objective, claim)
        _show(bar, done)


def _attempt(study: Study, objective: Objective, claim: Claim) -> None:
    try:
        with study.alive(claim.number):
            state, scores, reason = _outcome(objective, claim)
        study.finish(claim.number, state, scores, reason)
        tqdm.write(_line(claim, state, scores, reason))
    except TakenOver:
        tqdm.write(f"trial {claim.number} was taken over by another worker: this one was silent for too long")


def _outcome(objective: Objective, claim: Claim) -> tuple[TrialState, list[float] | None, str]:
    try:
        scores = objective(claim)
    except optuna.TrialPruned as pruned:
        return TrialState.PRUNED, None, str(pruned)
    except (InputError, ConfigError) as error:
        return TrialState.FAIL, None, one_line(str(error))
    except MemoryError:
        return TrialState.FAIL, None, "the memory is too small for these settings"
    except RuntimeError as error:
        if hint_of(error) is None:
            raise
        return TrialState.FAIL, None, hint_of(error)
    if not all(map(math.isfinite, scores)):
        return TrialState.FAIL, None, "its score is not finite"
    return TrialState.COMPLETE, scores, ""


def _line(claim: Claim, state: TrialState, scores: list[float] | None, reason: str) -> str:
    shown = " ".join(f"{score:.4f}" for score in scores) if scores else reason or state.name.lower()
    chosen = " ".join(f"{key}={_brief(value)}" for key, value in claim.params.items())
    return f"trial {claim.number}: {shown}: {chosen}"


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show(bar: tqdm, done: list[FrozenTrial]) -> None:
    bar.n = len(done)
    scored = [trial.values for trial in done if trial.state == TrialState.COMPLETE]
    if scored:
        best = [max(column) for column in zip(*scored, strict=True)]
        bar.set_postfix_str("best " + " ".join(f"{score:.4f}" for score in best), refresh=False)
    bar.refresh()

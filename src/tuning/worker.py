"""A worker: claims trials until all that were planned are finished, by whichever worker."""

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
"""Trains or decodes with a claim's settings, and returns the scores to maximise."""
POLL_INTERVAL = 1.0
"""Seconds between two looks at the trials of other workers when there is none left to claim."""


def run_worker(study: Study, objective: Objective, label: str) -> None:
    """Work on the study until all its trials are finished. A trial that fails for its own reasons is finished, too.

    The last trials of other workers are waited for, and taken over should their workers die.
    """
    with tqdm(total=study.plan.trials, desc=label, unit="trial", disable=None) as bar:
        while len(finished := study.finished()) < study.plan.trials:
            _show(bar, finished)
            claim = study.claim()
            if claim is None:
                time.sleep(POLL_INTERVAL)
            else:
                _attempt(study, objective, claim)
        _show(bar, finished)


def _attempt(study: Study, objective: Objective, claim: Claim) -> None:
    try:
        with study.heartbeats(claim.number):
            state, scores, reason = _outcome(objective, claim)
        study.finish(claim.number, state, scores, reason)
        shown = " ".join(f"{score:.4f}" for score in scores) if scores else reason or state.name.lower()
        texts = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in claim.params.items()}
        tqdm.write(f"trial {claim.number}: {shown}: {' '.join(f'{key}={text}' for key, text in texts.items())}")
    except TakenOver:
        tqdm.write(f"trial {claim.number} was taken over by another worker: this one sent no heartbeat for too long")


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
        hint = hint_of(error)
        if hint is None:
            raise
        return TrialState.FAIL, None, hint
    if not all(map(math.isfinite, scores)):
        return TrialState.FAIL, None, "its score is not finite"
    return TrialState.COMPLETE, scores, ""


def _show(bar: tqdm, finished: list[FrozenTrial]) -> None:
    bar.n = len(finished)
    scored = [trial.values for trial in finished if trial.state == TrialState.COMPLETE]
    if scored:
        best = [max(column) for column in zip(*scored, strict=True)]
        bar.set_postfix_str("best " + " ".join(f"{score:.4f}" for score in best), refresh=False)
    bar.refresh()

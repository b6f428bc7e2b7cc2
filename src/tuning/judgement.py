"""Is the best trial better than the settings as they are? A paired test on photos that it was not chosen by.

The best of several trials owes part of its score to luck with the photos that it was chosen by. So both are trained
anew, to the end, on folds that no trial was scored on, and only a difference above 0 with its whole 95% interval lets
the trial win.
"""

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from typing import Any, Protocol

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from src.base.errors import InputError
from src.base.text import one_line
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import FEWEST, is_measurable, mos_score_of_counts
from src.metrics.significance import Paired, paired_scores
from src.pipeline.resolved import SearchPlan
from src.settings.keys import flatten
from src.settings.load import changed
from src.settings.schema import CaptionWeights, Settings
from src.settings.yaml_files import as_text

RESAMPLES = 1000
"""Of the test. metric.bootstrap does not count: a setting of reports must not change which settings are trained."""

Predictions = dict[int, tuple[float, str]]
"""MOS and caption of photos, by row."""


@dataclass(frozen=True)
class ValidationLabels:
    """The labels of validation photos, by row: MOS of those that have one, captions of those that have some."""

    mos: dict[int, float]
    references: dict[int, list[str]]


class Predictor(Protocol):
    """What learns or decodes with given settings, and the labels of what it predicts."""

    def labels(self, folds: list[int]) -> ValidationLabels:
        """Of the folds' validation photos."""

    def predictions(self, settings: Settings, folds: list[int], system: str) -> Predictions:
        """Of the folds' validation photos; `system` tells the settings apart. Raises InputError where that fails."""


@dataclass(frozen=True)
class Verdict:
    """Whether the best trial takes the place of the settings as they are, in words too, and the test if there was one.

    The difference is the trial's score minus that of the settings as they are.
    """

    won: bool
    sentence: str
    test: Paired | None = None

    def record(self) -> dict[str, Any]:
        """As it is kept in judge.json."""
        figures = asdict(self.test) | {"resamples": RESAMPLES} if self.test else {}
        return {"verdict": self.sentence, "won": self.won, **figures}


DEFAULTS = "the defaults"
"""The name of the settings as they are."""


def folder_name(system: str) -> str:
    """Of what is kept of a system that is judged."""
    return system.replace(" ", "-")


def systems_to_judge(
    settings: Settings, plan: SearchPlan, best: FrozenTrial, first: FrozenTrial
) -> dict[str, Settings] | Verdict:
    """The settings as they are and those of the best trial, by name, or the verdict where there is nothing to judge.

    settings: as they are, with nothing to search. first: trial 0.
    """
    name, winner = f"trial {best.number}", changed(settings, best.params, f"trial {best.number}")
    if plan.objective == "both":
        return Verdict(True, f"{name} is taken unjudged (two scores have no order)")
    if winner == settings:
        return Verdict(False, "the defaults won (no trial scored higher)")
    as_they_are = {key: as_text(value) for key, value in flatten(settings).items()}
    if first.state == TrialState.FAIL and all(as_text(v) == as_they_are[key] for key, v in first.params.items()):
        return Verdict(True, f"{name} won (the defaults failed: {first.user_attrs.get('reason', '')})")
    if not plan.judge_folds:
        return Verdict(True, f"{name} is taken unjudged (tune.judge_folds leaves no fold for it)")
    return {DEFAULTS: settings, name: winner}


def judge(systems: dict[str, Settings], plan: SearchPlan, predictor: Predictor) -> Verdict:
    """Judge the best trial, the second of `systems_to_judge`."""
    settings, where, (_, name) = systems[DEFAULTS], _where(plan), systems
    print(f"tune: judging {name} against the settings as they are on {where}", flush=True)
    predicted: dict[str, Predictions] = {}
    for system, its_settings in systems.items():
        try:
            predicted[system] = predictor.predictions(its_settings, plan.judge_folds, system)
        except InputError as error:
            other = name if system != name else DEFAULTS
            return Verdict(other == name, f"{other} won ({system} failed on {where}: {one_line(str(error))})")
    labels, weights = predictor.labels(plan.judge_folds), settings.metric.weights
    scored = scored_photos(labels, plan.objective)
    if not scored:
        return Verdict(False, f"the defaults won (too few photos with labels on {where})")
    ours, theirs = (
        objective_of_counts(plan.objective, predicted[system], labels, scored, weights) for system in (name, DEFAULTS)
    )
    test = paired_scores(ours, theirs, len(scored), RESAMPLES, settings.run.seed)
    assert test is not None
    won = test.low > 0
    figures = f"difference {test.difference:+.3f} [{test.low:.3f}, {test.high:.3f}] on {where}"
    return Verdict(won, f"{name if won else DEFAULTS} won ({figures})", test)


def _where(plan: SearchPlan) -> str:
    """The folds in words."""
    folds, again = ([f for f in plan.judge_folds if (f in plan.folds) == searched] for searched in (False, True))
    texts = [(folds, ""), (again, " with another seed")]
    named = [f"fold{'s' * (len(part) > 1)} {', '.join(map(str, part))}{how}" for part, how in texts if part]
    return " and ".join(named)


def scored_photos(labels: ValidationLabels, objective: str) -> list[int]:
    """The rows of the photos that the objective counts; none where one of its labels is on fewer than FEWEST, or
    all MOS are equal."""
    by_label = {"mos": set(labels.mos), "caption": set(labels.references)}
    counted = list(by_label.values()) if objective == "mean" else [by_label[objective]]
    if objective != "caption" and not is_measurable(list(labels.mos.values())):
        return []
    return sorted(set().union(*counted)) if min(map(len, counted)) >= FEWEST else []


def objective_of_counts(
    objective: str,
    predicted: Predictions,
    labels: ValidationLabels,
    rows: list[int],
    weights: CaptionWeights,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each photo of `rows` is drawn [samples, photos] to the score of each sample [samples].

    objective: mos, caption, or mean, of the MOS score and of the caption score divided by the sum of its weights.
    """
    parts: list[Callable[[np.ndarray], np.ndarray]] = []
    if objective != "caption":
        rated = [i for i, row in enumerate(rows) if row in labels.mos]
        mos = mos_score_of_counts([predicted[rows[i]][0] for i in rated], [labels.mos[rows[i]] for i in rated])
        parts.append(lambda counts: mos(counts[:, rated]))
    if objective != "mos":
        captioned = [i for i, row in enumerate(rows) if row in labels.references]
        references = [labels.references[rows[i]] for i in captioned]
        scores = score_captions(references, [predicted[rows[i]][1] for i in captioned])
        scale = sum(astuple(weights)) if objective == "mean" else 1.0
        parts.append(lambda counts: caption_score(scores.resampled(counts[:, captioned]), weights) / scale)
    return lambda counts: np.mean([part(counts) for part in parts], axis=0)

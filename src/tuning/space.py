"""The search space in Optuna's terms, and how a trial's settings are drawn from it."""

from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler

from src.base.randomness import fold_in

RANDOM_TRIALS = 5
"""Finished trials before the sampler learns from them."""


def distribution(entry: dict[str, Any]) -> BaseDistribution:
    """What an entry of the search space describes; a range ends at its last whole step."""
    if "choices" in entry:
        return CategoricalDistribution(entry["choices"])
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if step is not None:
        high = low + int((high - low) / step + 1e-9) * step
    if isinstance(low, int):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def holds(entry: dict[str, Any], value: Any) -> bool:
    """Whether the entry's range or choices have that value."""
    if "choices" in entry:
        return value in entry["choices"]
    if value is None or not entry["low"] <= value <= entry["high"]:
        return False
    steps = (value - entry["low"]) / entry.get("step", 1)
    return "step" not in entry or abs(steps - round(steps)) < 1e-9


def draw(trial: Trial, space: dict[str, dict], seed: int, present: dict[str, Any]) -> dict[str, Any]:
    """The trial's settings by Tree-structured Parzen Estimators (Bergstra et al. 2011); trial 0 has the present ones.

    Each value comes from a sampler of its own, seeded by (seed, trial, setting): it depends on the finished trials,
    not on what this process did before, nor on how far a killed process had come with drawing.
    """
    first = present if trial.number == 0 else {}
    params = {}
    for key, entry in space.items():
        own = fold_in(seed, "tune", trial.number, key) % 2**32
        sampler = TPESampler(seed=own, n_startup_trials=RANDOM_TRIALS, multivariate=False)
        known = {key: first[key]} if key in first and holds(entry, first[key]) else {}
        trial.study.sampler = PartialFixedSampler(known, sampler)
        params[key] = _suggest(trial, key, distribution(entry))
    return params


def _suggest(trial: Trial, key: str, values: BaseDistribution) -> Any:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    suggest = trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
    return suggest(key, values.low, values.high, step=values.step, log=values.log)

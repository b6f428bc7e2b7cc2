"""The search space as Optuna's distributions, and how a trial's settings are drawn from it."""

from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler

from src.base.randomness import fold_in
from src.settings.yaml_files import as_text

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
RANDOM_TRIALS = 5
"""Finished trials before the sampler learns from them."""


def distribution(entry: dict[str, Any]) -> Distribution:
    """The distribution of an entry of the search space; a range ends at its last whole step."""
    if "choices" in entry:
        return CategoricalDistribution([_choice(value) for value in entry["choices"]])
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if step is not None:
        high = low + int((high - low) / step + 1e-9) * step
    if isinstance(low, int):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _choice(value: Any) -> Any:
    """The value as one of Optuna's choices, which cannot be lists: these as the text that stands for them."""
    return as_text(value) if isinstance(value, list) else value


def contains(entry: dict[str, Any], value: Any) -> bool:
    """Whether the entry's range or choices contain the value."""
    if "choices" in entry:
        return value in entry["choices"]
    if value is None or not entry["low"] <= value <= entry["high"]:
        return False
    steps = (value - entry["low"]) / entry.get("step", 1)
    return "step" not in entry or abs(steps - round(steps)) < 1e-9


def draw(trial: Trial, space: dict[str, dict], seed: int, initial: dict[str, Any]) -> dict[str, Any]:
    """The trial's settings by Tree-structured Parzen Estimators (Bergstra et al. 2011); trial 0 has the initial ones.

    Each value comes from a sampler of its own, seeded by (seed, trial, setting): it depends on the finished trials,
    not on what this process did before, nor on how far a killed process had come. One seeded sampler for the whole
    study would repeat trials after each restart.
    """
    params = {}
    for key, entry in space.items():
        sampler_seed = fold_in(seed, "tune", trial.number, key) % 2**32
        sampler = TPESampler(seed=sampler_seed, n_startup_trials=RANDOM_TRIALS, multivariate=False)
        fixed = {}
        if trial.number == 0 and key in initial and contains(entry, initial[key]):
            fixed[key] = _choice(initial[key])
        trial.study.sampler = PartialFixedSampler(fixed, sampler)
        params[key] = _suggest(trial, key, distribution(entry))
    return params


def _suggest(trial: Trial, key: str, values: Distribution) -> Any:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)

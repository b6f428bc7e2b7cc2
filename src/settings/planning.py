"""What run.minutes chooses from: settings that anybody could give, in the place of those as they are."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from src.settings.model import OWN_TOWER

TRIALS = (4, 2)
"""Of the search, where there is time for some; random ones alone, which run side by side."""
FEW_SAMPLES, FEW_NEIGHBOURS = 2, 10
"""Of captions that are chosen from, where there is little time."""
LARGE, SMALL = "tf_efficientnet_lite2", "tf_efficientnet_lite0"
"""The default encoder, and one of its kind that takes less than half the time."""


@dataclass(frozen=True)
class Choice:
    """Settings in the place of those as they are.

    loss: of score, in thousandths of the MOS score plus a tenth of the caption score: an estimate. name: what is left
    out, in words.
    """

    loss: float
    name: str
    values: Mapping[str, Any]


AS_IT_IS = Choice(0, "", {})


def choices_of(flat: Mapping[str, Any]) -> list[list[Choice]]:
    """What can be chosen, the best first, for settings given by dotted key; one of each list is taken."""
    epochs, samples, long_side = flat["train.epochs"], flat["predict.samples"], flat["encoder.long_side"]
    cached = flat["encoder.frozen"] and flat["encoder.cache"] != "none"
    trials = [Choice(1 - n / max(TRIALS), f"{max(TRIALS) - n} trials", {"tune.trials": n}) for n in TRIALS]
    trials.append(Choice(2, "the search for settings", {"tune.trials": 0}))
    shorter = [(2 / 3, 5), (1 / 2, 12), (1 / 3, 25), (1 / 4, 40), (1 / 6, 60), (0, 110)]
    training = [
        Choice(loss, f"{epochs - count} of {epochs} epochs", {"train.epochs": count})
        for share, loss in shorter
        if (count := max(1, math.ceil(epochs * share))) < epochs
    ]
    search = {"ensemble.captions": "search", "predict.candidates": False}
    captions = [
        Choice(loss, f"{samples - count} of {samples} samples of captions", {"predict.samples": count})
        for share, loss in ((1 / 2, 2), (1 / 4, 4))
        if flat["ensemble.captions"] == "mbr" and (count := max(1, round(samples * share))) < samples
    ]
    if flat["ensemble.captions"] == "mbr" and flat["ensemble.neighbours"] > FEW_NEIGHBOURS:
        few = {"predict.samples": min(FEW_SAMPLES, samples), "ensemble.neighbours": FEW_NEIGHBOURS}
        captions.append(Choice(7, "most samples and neighbours of captions", few))
    # dear: the choice also keeps a captioner of few epochs from scoring below a constant sentence
    captions.append(Choice(30, "the choice among captions", search))
    alone = flat["split.holdout"] or flat["split.official"]
    folds = [] if alone else [Choice(25, "all folds but one", {"train.fold": 0})]
    lists = [trials, [AS_IT_IS, *training], [AS_IT_IS, *captions], [AS_IT_IS, *folds]]
    if cached:
        backbones = [Choice(10, "the further backbones", {"encoder.more_levels": []})]
        if flat["encoder.name"] == LARGE:
            backbones.append(Choice(20, "the larger backbone", {"encoder.name": SMALL, "encoder.more_levels": []}))
        smaller = [(384, 6), (256, 25), (128, 80)]
        sizes = [
            Choice(loss, f"pixels beyond a long side of {side}", {"encoder.long_side": side})
            for side, loss in smaller
            if long_side is not None and side < long_side
        ]
        if flat["encoder.name"] == OWN_TOWER:  # it is alone, and sees photos of one size
            backbones, sizes = [], []
        lists += [[AS_IT_IS, *backbones], [AS_IT_IS, *sizes]]
    return [_distinct(choices, flat) for choices in lists]


def _distinct(choices: list[Choice], flat: Mapping[str, Any]) -> list[Choice]:
    """Those that differ from the settings as they are and from each other."""
    kept: list[Choice] = []
    for choice in choices:
        same = choice is not AS_IT_IS and all(flat[key] == value for key, value in choice.values.items())
        if not same and not any(choice.values == other.values for other in kept):
            kept.append(choice)
    return kept or [AS_IT_IS]


def planned_keys(flat: Mapping[str, Any]) -> set[str]:
    """The settings that may be chosen."""
    return {key for choices in choices_of(flat) for choice in choices for key in choice.values}


def plans_of(flat: Mapping[str, Any], kept: Iterable[str]) -> list[list[Choice]]:
    """Every plan, the best first: one choice of each list. kept: settings that stay as they are."""
    kept = set(kept)
    lists = []
    for choices in choices_of(flat):
        allowed = [choice for choice in choices if not kept & choice.values.keys()]
        lists.append(allowed or [AS_IT_IS])
    plans = [[choice for choice in plan if choice is not AS_IT_IS] for plan in product(*lists)]
    return sorted(plans, key=lambda plan: sum(choice.loss for choice in plan))

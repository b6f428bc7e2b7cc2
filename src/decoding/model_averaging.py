"""Ensembles of causal decoders that generate one caption from the mean of their next-token distributions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from src.base.errors import InputError
from src.decoding.autoregressive import StepDecoder
from src.decoding.constraints import IMPOSSIBLE
from src.models.features import Features


@dataclass(frozen=True)
class AveragedFeatures:
    """The same photos as encoded by each member."""

    features: tuple[Features, ...]

    def __len__(self) -> int:
        return len(self.features[0])

    @property
    def device(self) -> torch.device:
        return self.features[0].device


class ModelAverage:
    """Causal decoders with one vocabulary and any encoders, as one decoder for every search.

    `mean` "probabilities": the arithmetic mean of the members' probabilities; "log_probabilities": the geometric mean,
    renormalised, in which a token that a member rules out counts IMPOSSIBLE there.
    """

    def __init__(self, members: Sequence[StepDecoder], mean: Literal["probabilities", "log_probabilities"]):
        if not all(hasattr(member, "step") for member in members):
            raise InputError(
                "non-autoregressive captioners (mask_predict, ctc_mask_predict) have no next-word distribution to "
                "average; leave out decoding.model_averaging"
            )
        self.members, self.mean = tuple(members), mean

    def start(self, features: AveragedFeatures) -> tuple[Any, ...]:
        """The members' states before the first token."""
        return tuple(member.start(each) for member, each in zip(self.members, features.features, strict=True))

    def step(self, tokens: torch.Tensor, state: tuple[Any, ...]) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """As that of a member. Raises InputError where the members' vocabularies differ in size."""
        steps = [member.step(tokens, each) for member, each in zip(self.members, state, strict=True)]
        sizes = [log_probs.shape[1] for log_probs, _ in steps]
        if len(set(sizes)) > 1:
            raise InputError(
                f"an ensemble needs one vocabulary, but its captioners know {', '.join(map(str, sizes))} words: "
                "train them with the same data, split and vocabulary settings"
            )
        stacked = torch.stack([log_probs.float() for log_probs, _ in steps])
        if self.mean == "probabilities":
            log_probs = stacked.logsumexp(dim=0) - math.log(len(steps))
        else:
            log_probs = stacked.clamp(min=IMPOSSIBLE).mean(dim=0).log_softmax(dim=1)
        return log_probs, tuple(after for _, after in steps)

    def reorder(self, state: tuple[Any, ...], index: torch.Tensor) -> tuple[Any, ...]:
        return tuple(member.reorder(each, index) for member, each in zip(self.members, state, strict=True))

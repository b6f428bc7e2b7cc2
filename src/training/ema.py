"""The exponential moving average of a network's weights, which is what is validated and kept."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

from src.models.lora import share_published

M = TypeVar("M", bound=nn.Module)


class ExponentialMovingAverage(nn.Module, Generic[M]):
    """The average of a module's weights and buffers over its optimiser steps, as `module`, a copy in eval mode.

    With a decay of min(decay, (1 + n) / (10 + n)) at step n, as TensorFlow's ExponentialMovingAverage has it, early
    weights are soon forgotten; `decay` 0 copies the weights. What is kept as published is shared, not copied.
    """

    module: M

    def __init__(self, module: M, decay: float):
        super().__init__()
        self.module, self.decay = deepcopy(module).eval(), decay
        share_published(self.module, module)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the module's weights as they are after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, present = self.module.state_dict(), module.state_dict()
        learned = [name for name, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[name] for name in learned], [present[name] for name in learned], 1 - decay)
        for name in averaged.keys() - set(learned):  # counters
            averaged[name].copy_(present[name])

"""An exponential moving average of the weights (Polyak and Juditsky 1992), which is what is validated and kept."""

import copy

import torch
from torch import nn


class Ema:
    """Averaged copy of a module, BatchNorm statistics included. `decay` 0 copies the weights themselves."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module` after optimiser step `step` (from 0); early steps weigh more: (1 + n) / (10 + n)."""
        keep = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        pairs = zip(self.module.state_dict().values(), module.state_dict().values(), strict=True)
        means, values = [], []
        for mean, value in pairs:
            if mean.is_floating_point():
                means.append(mean)
                values.append(value.detach())
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, values, 1 - keep)

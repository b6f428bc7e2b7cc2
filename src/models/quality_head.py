"""The head that predicts the mean opinion score (MOS) of a photo."""

import math

import torch
from torch import nn


class QualityHead(nn.Module):
    """Dropout and a linear layer, squashed into the labels' range by a scaled sigmoid.

    `low`, `high` and `mean` are those of the training labels. The weights start at zero and the bias so that the
    first prediction for every photo is `mean`; a prediction never leaves [low, high].
    """

    def __init__(self, width: int, dropout: float, low: float, high: float, mean: float):
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low <= mean <= high):
            raise ValueError(f"the labels' mean {mean} is not within their range [{low}, {high}]")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, 1)
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))
        nn.init.zeros_(self.linear.weight)
        share = (mean - low) / (high - low) if high > low else 0.5
        share = min(max(share, 1e-3), 1 - 1e-3)
        nn.init.constant_(self.linear.bias, math.log(share / (1 - share)))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled features [B, D] to MOS [B], float32 also under autocast: bf16 cannot tell 5.50 from 5.51."""
        with torch.autocast(pooled.device.type, enabled=False):
            share = torch.sigmoid(self.linear(self.dropout(pooled.float())).squeeze(-1))
            return self.low + (self.high - self.low) * share

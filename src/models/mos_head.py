"""The head that predicts the mean opinion score (MOS) of a photo."""

import math

import torch
from scipy.optimize import brentq
from torch import nn


def _check(low: float, high: float, mean: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= mean <= high):
        raise ValueError(f"the labels' mean {mean} is not within their range [{low}, {high}]")


class MosHead(nn.Module):
    """Dropout and a linear layer, squashed into the labels' range by a scaled sigmoid.

    `low`, `high` and `mean` are those of the training labels. The weights start at zero and the bias so that the
    first prediction for every photo is `mean`; a prediction never leaves [low, high].
    """

    def __init__(self, width: int, dropout: float, low: float, high: float, mean: float):
        super().__init__()
        _check(low, high, mean)
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


class DistributionHead(nn.Module):
    """Dropout and a linear layer to the shares of the whole scores `bins`, whose mean is the MOS.

    The bins cover the labels' range. The weights start at zero and the bias so that the first prediction for every
    photo is `mean`, by the flattest distribution with that mean.
    """

    def __init__(self, width: int, dropout: float, low: float, high: float, mean: float):
        super().__init__()
        _check(low, high, mean)
        first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("bins", torch.arange(first, last + 1, dtype=torch.float32), persistent=False)
        self.linear = nn.Linear(width, len(self.bins))
        nn.init.zeros_(self.linear.weight)
        place, steps = (mean - first) / (last - first), torch.linspace(0, 1, len(self.bins), dtype=torch.float64)
        place = min(max(place, 0.01), 0.99)
        tilt = brentq(lambda t: float((t * steps).softmax(0) @ steps) - place, -500, 500)
        with torch.no_grad():
            self.linear.bias.copy_(tilt * steps)

    def probabilities(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled features [B, D] to the shares of the scores [B, K], float32 also under autocast."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.linear(self.dropout(pooled.float())).softmax(1)

    def expected_mos(self, shares: torch.Tensor) -> torch.Tensor:
        """The MOS [B] of shares [B, K]."""
        return shares @ self.bins

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled features [B, D] to MOS [B]."""
        return self.expected_mos(self.probabilities(pooled))

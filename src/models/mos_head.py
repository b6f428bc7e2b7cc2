"""The heads that predict the mean opinion score (MOS) of a photo."""

import contextlib
import math

import torch
from torch import nn

from src.models.levels import Standardiser
from src.settings.schema import MosHeadSettings


def _check(low: float, high: float, mean: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= mean <= high):
        raise ValueError(f"the labels' mean {mean} is not within their range [{low}, {high}]")


def _layers(width: int, settings: MosHeadSettings, outputs: int) -> tuple[nn.Sequential, nn.Linear]:
    """What lies between the standardised features and the last layer, and that with zero weights."""
    steps: list[nn.Module] = [nn.Dropout(settings.dropout)]
    if settings.hidden:
        steps += [nn.Linear(width, settings.hidden), nn.GELU(), nn.Dropout(settings.dropout)]
    last = nn.Linear(settings.hidden or width, outputs)
    nn.init.zeros_(last.weight)
    return nn.Sequential(*steps), last


def _in_float32(device: torch.device) -> contextlib.AbstractContextManager:
    """No autocast, which the meta device does not know."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class MosHead(nn.Module):
    """Dropout, a hidden layer where one is asked for, a linear layer, and a sigmoid scaled to the range of the labels.

    `low`, `high` and `mean` are those of the training labels. With zero weights and a suitable bias, the prediction
    before training is `mean` for every photo; no prediction ever leaves [low, high].
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, width: int, settings: MosHeadSettings, low: float, high: float, mean: float):
        super().__init__()
        _check(low, high, mean)
        self.standardiser = Standardiser(width)
        self.layers, self.linear = _layers(width, settings, 1)
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))
        fraction = (mean - low) / (high - low) if high > low else 0.5
        fraction = min(max(fraction, 1e-3), 1 - 1e-3)
        nn.init.constant_(self.linear.bias, math.log(fraction / (1 - fraction)))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """MOS [B] from pooled features [B, D], in float32 also under autocast: bf16 cannot tell 5.50 from 5.51."""
        with _in_float32(pooled.device):
            fraction = torch.sigmoid(self.linear(self.layers(self.standardiser(pooled.float()))).squeeze(-1))
            return self.low + (self.high - self.low) * fraction


class DistributionHead(nn.Module):
    """As MosHead, but with a softmax over the integer scores `bins` at its end; the MOS is its expectation.

    The bins cover the range of the labels. With zero weights, the prediction before training is the distribution of
    mean `mean` with the greatest entropy, for every photo.
    """

    bins: torch.Tensor

    def __init__(self, width: int, settings: MosHeadSettings, low: float, high: float, mean: float):
        super().__init__()
        _check(low, high, mean)
        first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        self.register_buffer("bins", torch.arange(first, last + 1, dtype=torch.float32), persistent=False)
        self.standardiser = Standardiser(width)
        self.layers, self.linear = _layers(width, settings, len(self.bins))
        fraction = min(max((mean - first) / (last - first), 0.01), 0.99)
        # of all distributions with that mean, an exponential in the score has the greatest entropy
        scores = torch.linspace(0, 1, len(self.bins), dtype=torch.float64, device="cpu")  # also on the meta device
        from scipy.optimize import brentq  # half a second to import, for this head alone

        slope = brentq(lambda t: float((t * scores).softmax(0) @ scores) - fraction, -500, 500)
        with torch.no_grad():
            self.linear.bias.copy_(slope * scores)

    def probabilities(self, pooled: torch.Tensor) -> torch.Tensor:
        """Probabilities of the scores [B, K] from pooled features [B, D], in float32 also under autocast."""
        with _in_float32(pooled.device):
            return self.linear(self.layers(self.standardiser(pooled.float()))).softmax(1)

    def expected_mos(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The MOS [B] of probabilities [B, K], in float32 also under autocast."""
        with _in_float32(probabilities.device):
            return probabilities.float() @ self.bins

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """MOS [B] from pooled features [B, D]."""
        return self.expected_mos(self.probabilities(pooled))

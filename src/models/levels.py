"""Multi-level features: how strongly each channel of each block of a backbone responds, how unevenly, and at most.

Early blocks see sharpness and noise, late ones what a photo shows; judging quality takes both. MLSP (Hosu, Goldlücke
and Saupe, Effective Aesthetics Prediction with Multi-level Spatially Pooled Features, CVPR 2019); MultiGAP (Varga,
Multi-Pooled Inception Features for No-Reference Image Quality Assessment, Applied Sciences 2020). An inverted residual
block (Sandler et al., MobileNetV2, CVPR 2018) computes in several times as many channels as it hands on: the maxima are
of these.
"""

import re
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from src.models.features import Features

_FARTHEST = 8.0
"""Standard deviations: a feature that is farther off in an unseen photo is no more evidence than that."""
_BOTTLENECK = 128
"""Width between the levels, of which there are thousands, and the grid."""


@dataclass(frozen=True)
class BlockWidths:
    """How many columns of levels, of which the first half are means, and of maxima each block has, in order."""

    levels: tuple[int, ...] = ()
    maxima: tuple[int, ...] = ()


def block_names(backbone: Any, coarse: bool = False) -> list[str]:
    """The modules of the backbone's blocks from the input on, as timm groups them for layer-wise learning rates.

    coarse: its stages instead, each of several blocks. The children of a backbone that timm does not group.
    """
    matcher = backbone.group_matcher(coarse=coarse) if hasattr(backbone, "group_matcher") else None
    patterns = matcher.get("blocks", ()) if isinstance(matcher, dict) else ()
    if isinstance(patterns, str):
        patterns = [(patterns, None)]
    # a pattern with a place of its own is a part of a block: a norm, a step between two stages
    blocks = [re.compile(pattern) for pattern, place in patterns if place is None]
    matches = [block.match(name) for name, _ in backbone.named_parameters() for block in blocks]
    names = list(dict.fromkeys(match.group(0) for match in matches if match))
    return names or [name for name, child in backbone.named_children() if list(child.parameters())]


def channel_statistics(values: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over the positions: [B, N, C] → float32 [B, 2C]."""
    values = values.float()
    # products with a constant vector cost less than torch.var_mean over channels-last maps on a CPU
    share = values.new_full((1, 1, values.shape[1]), 1 / values.shape[1]).expand(len(values), -1, -1)
    mean = share @ values
    variance = share @ torch.square(values - mean)
    return torch.cat([mean, variance.sqrt()], dim=2).squeeze(1)


def _projection(block: nn.Module) -> nn.Conv2d | None:
    """The convolution at the end of a block that makes it narrower than it is inside; None where there is none."""
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    return convolutions[-1] if convolutions and convolutions[-1].in_channels > convolutions[-1].out_channels else None


class BlockStatistics:
    """Collects the `channel_statistics` of the blocks, and the maxima inside them, while a backbone runs.

    Outputs are [B, C, H, W], [B, H, W, C] (`channels_last`) or tokens [B, T, C], of which the first `prefix_tokens`
    stand for no position. Each thread collects its own, so that the replicas of DataParallel do not mix.
    """

    def __init__(self, backbone: nn.Module, channels_last: bool, prefix_tokens: int):
        self._channels_last, self._prefix_tokens = channels_last, prefix_tokens
        self._statistics: dict[int, list[torch.Tensor]] = {}
        self._maxima: dict[int, list[torch.Tensor]] = {}
        for name in block_names(backbone):
            block = backbone.get_submodule(name)
            block.register_forward_hook(self._collect)
            if projection := _projection(block):
                projection.register_forward_pre_hook(self._collect_maxima)

    def _collect(self, _: nn.Module, __: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
            return
        if output.ndim == 3:
            values = output[:, self._prefix_tokens :]
        else:
            values = (output if self._channels_last else output.permute(0, 2, 3, 1)).flatten(1, 2)
        self._statistics.setdefault(threading.get_ident(), []).append(channel_statistics(values))

    def _collect_maxima(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        maxima = nn.functional.adaptive_max_pool2d(inputs[0].float(), 1).flatten(1)
        self._maxima.setdefault(threading.get_ident(), []).append(maxima)

    def take(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What this thread collected since it last took: of each block [B, 2C]; of those wider inside, W, [B, W]."""
        thread = threading.get_ident()
        return self._statistics.pop(thread, []), self._maxima.pop(thread, [])


class Standardiser(nn.Module):
    """Features less their mean and over their standard deviation, at most _FARTHEST of them from the mean.

    Until `fit` has set these it changes nothing: an encoder that is trained moves its features.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.zeros(width))

    def fit(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Take the statistics [D] of the training photos."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-6))  # also a constant feature counts as fitted

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, D] → [B, D]."""
        # the divisor is never 0: the gradient of the value that is not taken would not be finite
        standardised = ((features - self.mean) / self.std.clamp(min=1e-6)).clamp(-_FARTHEST, _FARTHEST)
        return torch.where(self.std > 0, standardised, features)


class LevelsInGrid(nn.Module):
    """Shows a captioner the levels: projected to the width of the grid, they are added to each of its cells.

    The last layer of a network that names what a photo shows has forgotten brightness, sharpness and noise, of which
    people speak as well.
    """

    def __init__(self, levels_width: int, width: int, dropout: float):
        super().__init__()
        self.standardiser = Standardiser(levels_width)
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(levels_width, _BOTTLENECK), nn.GELU(), nn.Linear(_BOTTLENECK, width)
        )

    def forward(self, features: Features) -> Features:
        """The same with the levels [B, L] in its cells [B, N, D], as `shift`, and in `pooled` [B, D]."""
        assert features.levels is not None
        shift = self.layers(self.standardiser(features.levels))
        return replace(features, shift=shift, pooled=features.pooled + shift)

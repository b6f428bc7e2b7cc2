"""The base of all encoders: networks that turn photos into features, and that can be frozen."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from src.models.features import Features


class Encoder(nn.Module, ABC):
    """An encoder of photos.

    `width` is D of the features, `layout` the (height, width) of their grid. `frozen`: it is not trained. `removed`:
    the modules of the published network that features do not depend on, which were removed. `fixed_input_size`: it
    takes photos of the size that it was built for only.
    """

    mean: torch.Tensor
    std: torch.Tensor
    width: int
    layout: tuple[int, int]
    frozen: bool
    removed: set[str]
    fixed_input_size: bool = False

    def __init__(self, channels: int, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool):
        super().__init__()
        self.removed = set()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, channels, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, channels, 1, 1) * 255)
        self._trainable: list[nn.Parameter] = []

    @property
    def region_kind(self) -> str:
        """What a figure calls the N cells or regions of its features."""
        return "cells of the grid"

    @property
    def warning(self) -> str:
        """One sentence for whoever trains it, or ""."""
        return ""

    @abstractmethod
    def forward(self, pixels: torch.Tensor) -> Features:
        """Features of uint8 pixels [B, H, W, C] (or float on the scale 0 to 255)."""

    @abstractmethod
    def layers(self) -> list[list[nn.Parameter]]:
        """The trainable parameters, layer by layer from the input on, for layer-wise learning rate decay."""

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, H, W, C] as float32 [B, C, H, W], standardised by the statistics that the network expects."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def set_trainable(self, network: nn.Module, frozen: bool) -> None:
        """Let `freeze` act on those parameters of `network` that require gradients now, and freeze it where asked."""
        self._trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.freeze(frozen)

    def freeze(self, frozen: bool) -> None:
        """Freeze or unfreeze the network."""
        self.frozen = frozen
        for parameter in self._trainable:
            parameter.requires_grad_(not frozen)
        self.train(self.training)


def trainable(groups: list[list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Groups of parameters without the frozen ones, and without empty groups."""
    groups = [[parameter for parameter in group if parameter.requires_grad] for group in groups]
    return [group for group in groups if group]

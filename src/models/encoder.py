"""The base of all encoders: networks that turn photos into features, and that can be frozen."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import nn

from src.models.features import Features
from src.models.levels import BlockWidths
from src.models.lora import add_adapters, take_off_bypassed


class Encoder(nn.Module, ABC):
    """An encoder of photos.

    `width` is D of the features, `levels_width` L (0: it gives no levels), `block_widths` how many columns of levels
    and maxima each block has, `layout` the (height, width) of the grid. `frozen`: it is not trained. `removed`: the
    modules of the published network that features do not depend on, which were removed. `pooling`: the parameters that
    the features' `pooled` alone depends on. `fixed_input_size`: it takes photos of the size that it was built for only.
    """

    mean: torch.Tensor
    std: torch.Tensor
    width: int
    levels_width: int = 0
    block_widths: BlockWidths = BlockWidths()
    layout: tuple[int, int]
    frozen: bool
    removed: set[str]
    pooling: list[nn.Parameter]
    fixed_input_size: bool = False

    def __init__(self, channels: int, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool):
        super().__init__()
        self.removed = set()
        self.pooling = []
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

    def checkpoint_gradients(self) -> bool:
        """Compute activations inside its blocks again in the backward pass; False where it cannot."""
        return False

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, H, W, C] as float32 [B, C, H, W], standardised by the statistics that the network expects."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def set_trainable(self, network: nn.Module, frozen: bool) -> None:
        """Let `freeze` act on those parameters of `network` that require gradients now, and freeze it where asked."""
        self._trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.freeze(frozen)

    def adapt(self, network: nn.Module, rank: int, size: int) -> None:
        """Train adapters beside the layers of `network`, a part of this encoder for photos of `size` pixels, alone.

        Raises InputError where it has no layers that can be adapted.
        """
        add_adapters(network, rank, "encoder.lora_rank")
        self.set_trainable(network, frozen=False)
        features = self(torch.zeros(1, size, size, self.mean.shape[1]))
        take_off_bypassed(network, features.grid.sum() + features.pooled.sum())
        self.set_trainable(network, frozen=False)

    def freeze(self, frozen: bool) -> None:
        """Freeze or unfreeze the network."""
        self.frozen = frozen
        for parameter in self._trainable:
            parameter.requires_grad_(not frozen)
        self.train(self.training)


class JoinedEncoder(Encoder):
    """An encoder whose levels are joined by those of others, and by the output of early stages; all of them frozen."""

    def __init__(self, encoder: Encoder, others: list[Encoder], early_stages: nn.Module | None):
        channels = encoder.mean.shape[1]
        super().__init__(channels, (0.0,) * channels, (1.0,) * channels, False)
        self.encoder, self.others, self.early_stages = encoder, nn.ModuleList(others), early_stages
        self.width, self.layout, self.frozen = encoder.width, encoder.layout, encoder.frozen
        self.levels_width = encoder.levels_width + sum(other.levels_width for other in others)
        widths = [each.block_widths for each in (encoder, *others)]
        self.block_widths = BlockWidths(
            tuple(width for each in widths for width in each.levels),
            tuple(width for each in widths for width in each.maxima),
        )
        self.fixed_input_size = any(each.fixed_input_size for each in (encoder, *others))

    @property
    def region_kind(self) -> str:
        return self.encoder.region_kind

    @property
    def warning(self) -> str:
        return self.encoder.warning

    def forward(self, pixels: torch.Tensor) -> Features:
        features = self.encoder(pixels)
        if self.others:
            every = [features, *(other(pixels) for other in self.others)]
            levels = [each.levels for each in every if each.levels is not None]
            maxima = [each.maxima for each in every if each.maxima is not None]
            joined = torch.cat(maxima, dim=1) if maxima else None
            features = replace(features, levels=torch.cat(levels, dim=1), maxima=joined)
        return features if self.early_stages is None else replace(features, stage=self.early_stages(pixels))

    def layers(self) -> list[list[nn.Parameter]]:
        return self.encoder.layers()


@dataclass(frozen=True)
class EncoderShape:
    """What is known of a frozen encoder where its features are cached; see Encoder.

    `parameters`: how many it has.
    """

    channels: int
    width: int
    levels_width: int
    layout: tuple[int, int]
    parameters: int
    warning: str

    @classmethod
    def of(cls, encoder: Encoder) -> "EncoderShape":
        """That of an encoder."""
        channels, parameters = encoder.mean.shape[1], sum(value.numel() for value in encoder.parameters())
        return cls(channels, encoder.width, encoder.levels_width, encoder.layout, parameters, encoder.warning)


class CachedEncoder(Encoder):
    """Stands for a frozen encoder where its cached features are all that is needed."""

    def __init__(self, shape: EncoderShape):
        super().__init__(shape.channels, (0.0,) * shape.channels, (1.0,) * shape.channels, False)
        self.shape, self.frozen = shape, True
        self.width, self.levels_width, self.layout = shape.width, shape.levels_width, shape.layout

    @property
    def warning(self) -> str:
        return self.shape.warning

    def forward(self, pixels: torch.Tensor) -> Features:
        raise NotImplementedError("features are cached")

    def layers(self) -> list[list[nn.Parameter]]:
        return []


@torch.inference_mode()
def views_of(encoder: Encoder, pixels: torch.Tensor, mirrored: bool) -> dict[str, torch.Tensor]:
    """Features of photos of one size as tensors by name, each [B, V, ...]: of the photos as they are and `mirrored`.

    pixels: uint8 [B, H, W, C]. The names are those of Features' fields, and `boxes` for a layout of regions. The grid
    is averaged to the encoder's layout.
    """
    views = torch.stack([pixels, pixels.flip(2)], dim=1) if mirrored else pixels[:, None]
    features = encoder(views.flatten(0, 1)).averaged_to(encoder.layout)
    names = ("grid", "mask", "pooled", "levels", "maxima", "stage")
    named: dict[str, torch.Tensor | None] = {name: getattr(features, name) for name in names}
    if isinstance(features.layout, torch.Tensor):
        named["boxes"] = features.layout.float()
    return {name: tensor.unflatten(0, views.shape[:2]) for name, tensor in named.items() if tensor is not None}


def trainable(groups: list[list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Groups of parameters without the frozen ones, and without empty groups."""
    groups = [[parameter for parameter in group if parameter.requires_grad] for group in groups]
    return [group for group in groups if group]

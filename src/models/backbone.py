"""Encoders around a backbone: any timm model by name, or torchvision's GoogLeNet."""

import difflib
import math
from collections import OrderedDict
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from src.base.errors import InputError
from src.base.text import said_by
from src.models.encoder import Encoder, trainable
from src.models.faster_rcnn import DETECTORS, build_faster_rcnn
from src.models.features import Features
from src.models.levels import BlockStatistics, BlockWidths, channel_statistics
from src.models.weights import fetch_torchvision, fit_weights, published_weights
from src.models.weights_files import read_weights
from src.settings.schema import EncoderSettings

# Not ImageNet's usual mean and std: these weights were converted from TensorFlow.
_GOOGLENET: dict[str, Any] = {
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "first_conv": "conv1.conv",
    "input_size": (3, 224, 224),
    "classifier": ("fc", "aux1", "aux2"),
    "num_classes": 1000,
}


class BackboneEncoder(Encoder):
    """A backbone with the normalisation of its input, and its output as a grid of cells.

    `layout` is that of the grid at the size it was built for. `pooled` is the backbone's own pooling (mean, class
    token, a norm after the mean) where that keeps the width, else the mean over the grid. Modules of the backbone that
    features do not depend on are removed, so that every parameter gets a gradient; one of `pooling` gets it where
    `pooled` is read.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool = False,
        channels_last: bool = False,
        warning: str = "",
        levels: bool = False,
    ):
        super().__init__(channels, mean, std, channels_last and not _breaks_channels_last(backbone))
        self.backbone: Any = backbone  # timm's methods are no part of nn.Module
        self._prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)
        self._output_is_nhwc = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self._pools_itself = False
        self._warning = warning
        self.fixed_input_size = bool((getattr(backbone, "pretrained_cfg", None) or {}).get("fixed_input_size"))
        self._blocks = BlockStatistics(backbone, self._output_is_nhwc, self._prefix_tokens) if levels else None
        self._probe(channels, size)
        self.backbone.to(memory_format=self.memory_format)
        self.set_trainable(self.backbone, frozen)

    @property
    def warning(self) -> str:
        return self._warning

    def forward(self, pixels: torch.Tensor) -> Features:
        images = self.normalised(pixels).contiguous(memory_format=self.memory_format)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self._run(images).float()
            grid, layout = self._grid(output)
            pooled = self.backbone.forward_head(output, pre_logits=True) if self._pools_itself else grid.mean(dim=1)
            levels, maxima = (torch.cat(parts, dim=1) if parts else None for parts in self._levels(grid))
        mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
        return Features(grid, mask, layout, pooled.float(), levels, maxima=maxima)

    def train(self, mode: bool = True) -> "BackboneEncoder":
        """A frozen backbone stays in evaluation mode, so that its batch norms keep their statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def layers(self) -> list[list[nn.Parameter]]:
        parameters = dict(self.backbone.named_parameters())
        if hasattr(self.backbone, "group_matcher"):
            names = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False))
            groups = [[parameters[name] for name in names[layer] if name in parameters] for layer in sorted(names)]
        else:
            groups = [list(child.parameters()) for child in self.backbone.children()]
        return trainable(groups)

    def checkpoint_gradients(self) -> bool:
        try:
            self.backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError):  # timm asserts where a model cannot
            return False
        return True

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        return getattr(self.backbone, "forward_features", self.backbone)(images)

    def _levels(self, grid: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Statistics of each block and of the output, and the maxima inside blocks; none where there are no levels."""
        if not self._blocks:
            return [], []
        statistics, maxima = self._blocks.take()
        return [*statistics, channel_statistics(grid)], maxima

    def _grid(self, output: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The backbone's output as [B, N, D] in row-major order, and (height, width)."""
        if output.ndim == 3:
            grid = output[:, self._prefix_tokens :]
            side = math.isqrt(grid.shape[1])
            height, width = getattr(getattr(self.backbone, "patch_embed", None), "grid_size", None) or (side, side)
            return grid, ((height, width) if height * width == grid.shape[1] else (side, side))
        if not self._output_is_nhwc:
            output = output.permute(0, 2, 3, 1)
        return output.flatten(1, 2), (output.shape[1], output.shape[2])

    def _probe(self, channels: int, size: int) -> None:
        """Run one empty photo to learn the shapes, whether the backbone pools, and what features do not depend on."""
        was_training = self.backbone.training
        self.backbone.eval()
        with torch.enable_grad():
            output = self._run(torch.zeros(1, channels, size, size))
            if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
                raise ValueError("its features are not a grid")
            grid, self.layout = self._grid(output)
            if math.prod(self.layout) != grid.shape[1]:
                raise ValueError("its features are not a grid")
            self.width = grid.shape[2]
            levels, maxima = (tuple(part.shape[1] for part in parts) for parts in self._levels(grid))
            self.block_widths, self.levels_width = BlockWidths(levels, maxima), sum(levels)
            pooled = self._own_pooling(output)
            self._pools_itself = pooled is not None
            self._remove_unused(grid, pooled)
        self.backbone.train(was_training)

    def _own_pooling(self, output: torch.Tensor) -> torch.Tensor | None:
        if not hasattr(self.backbone, "forward_head"):
            return None
        try:
            pooled = self.backbone.forward_head(output, pre_logits=True)
        except TypeError:  # a head without pre_logits
            return None
        return pooled if pooled.shape == (output.shape[0], self.width) else None

    def _remove_unused(self, grid: torch.Tensor, pooled: torch.Tensor | None) -> None:
        """Unused layers (the wide head of a MobileNet) would be trained by weight decay alone and break DDP."""
        unused = independent(grid, {name: p for name, p in self.backbone.named_parameters() if p.requires_grad})
        if pooled is not None and unused:
            outside_grid, unused = unused, independent(pooled, unused)
            self.pooling = [parameter for name, parameter in outside_grid.items() if name not in unused]
        for child, module in list(self.backbone.named_children()):
            names = {f"{child}.{name}" for name, _ in module.named_parameters()}
            if names and names <= unused.keys():
                setattr(self.backbone, child, nn.Identity())
                self.removed.add(child)
        for name, parameter in self.backbone.named_parameters():
            if name in unused:
                parameter.requires_grad_(False)


def independent(output: torch.Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those that the output does not depend on."""
    gradients = torch.autograd.grad(output.sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    return {name: parameter for (name, parameter), gradient in pairs if gradient is None}


def _breaks_channels_last(backbone: nn.Module) -> bool:
    """Whether training it channels-last on a CPU would write past the end of memory.

    oneDNN (seen in torch 2.15, oneDNN issue 6035) does so in the gradient of a strided 1×1 convolution with fewer
    input channels than a vector holds: 16 at most. RepVGG and MobileOne start with one.
    """
    return any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < 16
        for module in backbone.modules()
    )


def build_backbone(
    settings: EncoderSettings,
    channels: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels_last: bool,
) -> Encoder:
    """The one that `settings` name, alone; see `encoders.build_encoder`."""
    weights = read_weights(settings.weights) if settings.weights else None
    published = settings.pretrained and weights is None
    if settings.name in DETECTORS:
        if settings.lora_rank:
            raise InputError(f"encoder.lora_rank={settings.lora_rank}: {settings.name} takes no adapters; leave it out")
        weights = fetch_torchvision(settings.name) if published else weights
        return build_faster_rcnn(settings, channels, size, weights, channels_last)
    config: dict[str, Any]
    if settings.name == "googlenet":
        backbone, config = _googlenet(settings, channels), _GOOGLENET
        weights = fetch_torchvision("googlenet") if published else weights
    else:
        backbone = _timm(settings, channels, size)
        config = dict(getattr(backbone, "pretrained_cfg", None) or {})
        weights = published_weights(settings.name) if published else weights
    warning = ""
    if weights:
        mean, std = (_statistics(config.get(key), channels, value) for key, value in (("mean", mean), ("std", std)))
    elif settings.frozen:
        warning = f"encoder.name={settings.name} is frozen and has no weights, so its features are random"
    try:
        levels = settings.levels and settings.cached
        encoder = BackboneEncoder(backbone, channels, size, mean, std, settings.frozen, channels_last, warning, levels)
    except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
        raise InputError(
            f"encoder.name={settings.name} cannot be used at view.size={size}: {said_by(error)}; "
            "try another view.size or encoder.name"
        ) from None
    _check_stride(settings, size, encoder.layout)
    if weights:
        fit_weights(backbone, weights, config, channels, encoder.removed)
    if settings.lora_rank:
        encoder.adapt(backbone, settings.lora_rank, size)
    return encoder


def _timm(settings: EncoderSettings, channels: int, size: int) -> nn.Module:
    if not timm.is_model(settings.name):
        near = difflib.get_close_matches(settings.name, ["googlenet", *DETECTORS, *timm.list_models()], n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() names them all"
        raise InputError(f"encoder.name={settings.name} is not a model of timm {timm.__version__}{hint}")
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if settings.output_stride is not None:
        options["output_stride"] = settings.output_stride
    try:
        config = timm.get_pretrained_cfg(settings.name)
        if config and config.fixed_input_size and tuple(config.input_size[1:]) != (size, size):
            options["img_size"] = size
        backbone = timm.create_model(settings.name, **options)
    except (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError) as error:
        what = f"channels={channels}, view.size={size}, encoder.output_stride={settings.output_stride}"
        raise InputError(
            f"encoder.name={settings.name} cannot be built with {what}: {said_by(error)}; change one of them"
        ) from None
    return backbone


def _googlenet(settings: EncoderSettings, channels: int) -> nn.Module:
    from torchvision.models import GoogLeNet

    if settings.output_stride not in (None, 32):
        raise InputError(f"encoder.output_stride={settings.output_stride}: googlenet cannot dilate; leave it out")
    network = GoogLeNet(num_classes=1, aux_logits=False, init_weights=True)
    if channels != 3:
        old = network.conv1.conv
        new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
        nn.init.trunc_normal_(new.weight, std=0.01, a=-2, b=2)
        network.conv1.conv = new
    head = ("avgpool", "dropout", "fc")
    return nn.Sequential(OrderedDict((n, child) for n, child in network.named_children() if n not in head))


def _statistics(published: tuple[float, ...] | None, channels: int, fallback: tuple[float, ...]) -> tuple[float, ...]:
    """The published statistics; for grayscale photos their mean over the channels, as the weights are summed."""
    if published is None:
        return tuple(fallback)
    return tuple(published) if len(published) == channels else (sum(published) / len(published),) * channels


def _check_stride(settings: EncoderSettings, size: int, layout: tuple[int, int]) -> None:
    stride = settings.output_stride
    if stride is not None and not (size // stride <= layout[0] <= -(-size // stride)):
        raise InputError(
            f"encoder.output_stride={stride}: {settings.name} gives a grid of {layout[0]}×{layout[1]} at "
            f"view.size={size} all the same; leave it out or take an encoder that can dilate, such as resnet50"
        )

"""Fine-tuning from a cached stage: a backbone's early stages are run once a photo, and its late ones are trained.

On a CPU the early stages, which see the photo at high resolution, are most of a backbone's cost; they also change least
in fine-tuning.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from src.models.levels import block_names


def split_backbone(backbone: Any, stages: int, size: int) -> tuple[Any, Any]:
    """A timm backbone's first `stages` stages, and what follows them: copies, to be run one after the other.

    Stages are timm's (group_matcher, coarse). size: side of photos that it takes, in pixels. Raises ValueError where
    there are not more stages, or where the backbone is no plain chain of its modules.
    """
    names = block_names(backbone, coarse=True)
    if stages >= len(names):
        raise ValueError(f"it has {len(names)} stages, of which one at least must follow the frozen ones")
    chain: list[str] = []
    for child, _ in backbone.named_children():
        chain += [name for name in names if name.startswith(f"{child}.")] or [child]
    cut = chain.index(names[stages])
    early, late = deepcopy(backbone).eval(), deepcopy(backbone).eval()
    for part, others in ((early, chain[cut:]), (late, chain[:cut])):
        for name in others:
            part.set_submodule(name, nn.Identity())
    _check(backbone, early, late, size)
    return early, late


@torch.no_grad()
def _check(backbone: Any, early: Any, late: Any, size: int) -> None:
    """Raise ValueError unless the parts compute what the whole does."""
    channels = next(module.in_channels for module in backbone.modules() if isinstance(module, nn.Conv2d))
    images = torch.linspace(-2, 2, channels * size * size).view(1, channels, size, size)
    was_training = backbone.training
    whole = backbone.eval().forward_features(images)
    backbone.train(was_training)
    try:
        parts = late.forward_features(early.forward_features(images))
    except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError):
        parts = whole + 1
    if parts.shape != whole.shape or not torch.allclose(parts, whole, rtol=1e-4, atol=1e-5):
        raise ValueError("its stages are no plain chain, as those of an EfficientNet, a ResNet or a ConvNeXt are")


class EarlyStages(nn.Module):
    """Frozen early stages, which see photos as squares of `size` pixels.

    backbone: the first part of `split_backbone`. mean, std: of the pixels it expects, [1, C, 1, 1] on the scale 0 to
    255.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Any, size: int, mean: torch.Tensor, std: torch.Tensor, memory_format: Any):
        super().__init__()
        self.backbone, self.size, self.memory_format = backbone, size, memory_format
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, H, W, C] → the last early stage's output [B, h, w, D]."""
        planes = pixels.permute(0, 3, 1, 2).float()
        squares = nn.functional.interpolate(planes, (self.size, self.size), mode="bilinear", antialias=True)
        images = ((squares - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        return _to_nhwc(self.backbone.forward_features(images), self.backbone)

    def train(self, mode: bool = True) -> "EarlyStages":
        """They stay in evaluation mode."""
        return super().train(False)


class LateStages(nn.Module):
    """The stages that are trained; their output is averaged over the cells. `width`: D of it.

    backbone: the second part of `split_backbone`. Batch norms keep their published statistics: those of the few rated
    photos of a batch would be worse.
    """

    def __init__(self, backbone: Any, width: int):
        super().__init__()
        self.backbone, self.width = backbone, width

    def forward(self, stage: torch.Tensor) -> torch.Tensor:
        """The output of the early stages [B, h, w, D'] → [B, D]."""
        nhwc = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        output = self.backbone.forward_features(stage if nhwc else stage.permute(0, 3, 1, 2))
        return _to_nhwc(output, self.backbone).mean((1, 2))

    def train(self, mode: bool = True) -> "LateStages":
        """They stay in evaluation mode, gradients or not."""
        return super().train(False)


def _to_nhwc(output: torch.Tensor, backbone: Any) -> torch.Tensor:
    return output if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output.permute(0, 2, 3, 1)

"""The optimiser, and the learning rate as a pure function of the fractional epoch."""

import math

import torch

from src.settings.schema import OptimSettings
from src.training.task import Task


def learning_rate(settings: OptimSettings, epoch: float, epochs: int, drops: int = 0) -> float:
    """Factor in [0, 1] on the peak learning rate at a fractional epoch of `epochs`.

    Linear warm-up, then a half cosine to zero (Loshchilov and Hutter 2017), a drop every step_epochs (step), or
    `drops` drops so far (plateau).
    """
    warmup = min(settings.warmup_epochs, epochs)
    if epoch < warmup:
        return epoch / warmup
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9)))
    if settings.schedule == "step":
        return settings.step_factor ** (int(epoch) // settings.step_epochs)
    return settings.step_factor**drops if settings.schedule == "plateau" else 1.0


def parameter_groups(task: Task, settings: OptimSettings) -> list[dict]:
    """Parameters by their factor on the learning rate (`lr_scale`) and their weight decay.

    The encoder's layers have encoder_lr_mult * layer_decay ** (layers above), the late stages of encoder.fine_tuned
    encoder_lr_mult; vectors (biases, norms) do not decay.
    timm.optim.param_groups_layer_decay does not serve here: it puts the heads into one more layer above the encoder,
    has no factor for the encoder as a whole, and gives every parameter of a network that is not timm's one layer.
    """
    layers = task.model.encoder.layers()
    scales = {
        parameter: settings.encoder_lr_mult * settings.layer_decay ** (len(layers) - 1 - depth)
        for depth, layer in enumerate(layers)
        for parameter in layer
    }
    if task.model.late_stages is not None:
        scales |= dict.fromkeys(task.model.late_stages.parameters(), settings.encoder_lr_mult)
    groups: dict[tuple[float, float], dict] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            scale, decay = scales.get(parameter, 1.0), settings.weight_decay if parameter.dim() > 1 else 0.0
            group = groups.setdefault((scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(task: Task, settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD (with Nesterov's momentum) over the task's parameters."""
    groups = parameter_groups(task, settings)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]

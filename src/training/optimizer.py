"""The optimiser, and the learning rate as a pure function of the fractional epoch."""

import math

import torch
from torch import nn

from src.settings.schema import OptimSettings
from src.training.task import Task


def learning_rate(settings: OptimSettings, epoch: float, epochs: int, drops: int = 0) -> float:
    """Factor in [0, 1] on the peak learning rate at a fractional epoch.

    Linear warm-up, then a half cosine to zero (Loshchilov and Hutter 2017), drops at fixed epochs, or `drops` drops
    so far (plateau).
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
    """Parameters with their factor on the learning rate (`factor`) and their weight decay.

    The encoder's layers get encoder_lr_mult * layer_decay ** (layers above); vectors (biases, norms) do not decay.
    """
    layers = task.model.encoder.layers()
    factors = {
        parameter: settings.encoder_lr_mult * settings.layer_decay ** (len(layers) - 1 - depth)
        for depth, layer in enumerate(layers)
        for parameter in layer
    }
    groups: dict[tuple[float, float], dict] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.dim() > 1 else 0.0
            key = (factors.get(parameter, 1.0), decay)
            group = groups.setdefault(key, {"params": [], "factor": key[0], "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(task: Task, settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over the task's parameters."""
    groups = parameter_groups(task, settings)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group lr times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def clip_gradient(module: nn.Module, largest: float) -> torch.Tensor:
    """Scale the gradient down to the norm `largest` (0: leave it); returns the norm it had."""
    return nn.utils.clip_grad_norm_(module.parameters(), largest or math.inf)

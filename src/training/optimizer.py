"""The optimiser, the learning rate as a pure function of the fractional epoch, and the average of the weights."""

import itertools
import logging
import math
from copy import deepcopy
from importlib.util import find_spec
from typing import Generic, TypeVar

import torch
from torch import nn

from src.base.errors import InputError
from src.base.text import one_line
from src.models.lora import share_published
from src.settings.schema import OptimSettings
from src.training.task import Task

M = TypeVar("M", bound=nn.Module)
STATE_BYTES = {"adamw": 8, "adam": 8, "sgd": 4, "adamw8bit": 2}
"""Bytes that each optimiser keeps for a trained parameter."""


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
    encoder_lr_mult; biases and vectors (norms) do not decay.
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
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            decays = parameter.dim() > 1 and not name.endswith("bias")
            scale, decay = scales.get(parameter, 1.0), settings.weight_decay if decays else 0.0
            group = groups.setdefault((scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(task: Task, settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD (with Nesterov's momentum) over the task's parameters, which are on their device.

    Raises InputError as `check_optimizer`.
    """
    groups = parameter_groups(task, settings)
    check_optimizer(settings, groups[0]["params"][0].device)
    if settings.name == "adamw8bit":
        return _adamw8bit(groups, settings.lr)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=True)


def check_optimizer(settings: OptimSettings, device: torch.device) -> None:
    """Raise InputError, in one line, where the optimiser needs a package that is absent or cannot compute there."""
    if settings.name != "adamw8bit":
        return
    install = "-m pip install -r requirements-large.txt"
    if not find_spec("bitsandbytes"):
        raise InputError(f"optim.name={settings.name} needs bitsandbytes: .venv/bin/python {install}")
    tried = torch.nn.Parameter(torch.ones(1, 4096, device=device))
    tried.grad = torch.ones_like(tried)
    try:
        _adamw8bit([{"params": [tried]}], 0.1).step()
        worked = bool((tried - 0.9).abs().max() < 0.01)
        reason = "its step is wrong"
    except Exception as error:
        worked, reason = False, one_line(str(error))[:120]
    if not worked:
        raise InputError(
            f"optim.name={settings.name}: bitsandbytes does not work on this {device.type} ({reason}); give adamw"
        )


def _adamw8bit(groups: list[dict], lr: float) -> torch.optim.Optimizer:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # what it warns of is for networks in four bits
    from bitsandbytes.optim import AdamW8bit

    for parameter in (parameter for group in groups for parameter in group["params"]):
        parameter.data = parameter.data.contiguous()  # its first step does so: before it, rounding would be another
    return AdamW8bit(groups, lr=lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class ExponentialMovingAverage(nn.Module, Generic[M]):
    """The average of a module's weights and buffers over its optimiser steps, as `module`, a copy in eval mode.

    With a decay of min(decay, (1 + n) / (10 + n)) at step n, as TensorFlow's ExponentialMovingAverage has it, early
    weights are soon forgotten; `decay` 0 copies the weights. What is kept as published is shared, not copied.
    """

    module: M

    def __init__(self, module: M, decay: float):
        super().__init__()
        self.module, self.decay = deepcopy(module).eval(), decay
        share_published(self.module, module)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the module's weights as they are after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # each tensor once: in a state_dict, a weight that two layers share stands under both names
        averaged, present = (itertools.chain(each.parameters(), each.buffers()) for each in (self.module, module))
        pairs = list(zip(averaged, present, strict=True))
        weights = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([average for average, _ in weights], [weight for _, weight in weights], 1 - decay)
        for average, counter in pairs:
            if not average.is_floating_point():
                average.copy_(counter)

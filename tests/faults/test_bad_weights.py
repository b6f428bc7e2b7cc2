"""Weights files as people save them: right ones load out of any wrapping, of wrong ones one line says what is wrong.

Nothing in a file is executed.
"""

import argparse
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from src import train
from src.base.errors import InputError
from src.models.encoders import build_encoder
from src.settings.schema import EncoderSettings
from src.training import checkpoint
from tests.helpers.bad_input import LONGEST_LINE, SMALL, Malicious, hurry, refused

NAME = "test_resnet"


def folder_of_weights(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").touch()
    (path / "config.json").touch()


def cut_short(path: Path) -> None:
    torch.save({"weight": torch.ones(99)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def cut_short_safetensors(path: Path) -> None:
    save_file({"weight": torch.ones(99)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def with_nan(path: Path) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save({"state_dict": weights}, path)


def of_this_program(path: Path) -> None:
    checkpoint.save(path, {"model": {"weight": torch.ones(3)}})


def of_numpy(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, weight=np.ones(3))


def legacy(path: Path) -> None:
    torch.save({"model": Malicious(), "weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)


def save_name(name: str) -> Callable[[Path], None]:
    return lambda path: torch.save(timm.create_model(name, num_classes=7).half().state_dict(), path)


WEIGHTS = {
    "absent": ("none.pt", None, "does not exist", "give a weights file"),
    "a folder": ("folder.pt", folder_of_weights, "is a folder", "give the weights file in it, such as model.safet"),
    "empty": ("weights.bin", Path.touch, "is empty", "get it again"),
    "text": (
        "weights.pt",
        lambda path: path.write_text("weights\n"),
        "is no weights file",
        "torch.save or safetensors",
    ),
    "text, safetensors": ("w.safetensors", lambda path: path.write_text("x" * 99), "is no weights file", "begins with"),
    "a web page": ("w.pth", lambda path: path.write_text("<!DOCTYPE html><html>"), "a web page", "again, logged in"),
    "an LFS pointer": (
        "w.bin",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS",
    ),
    "zero bytes only": ("w.pt", lambda path: path.write_bytes(bytes(5000)), "empty space", "get the file itself again"),
    "Keras": ("w.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "it is HDF5"),
    "NumPy": ("w.npz", of_numpy, "arrays of NumPy", "give one that torch.save wrote"),
    "cut short": ("w.pt", cut_short, "is cut short", "get it again"),
    "cut short, safetensors": ("w.safetensors", cut_short_safetensors, "is cut short or damaged", "get it again"),
    "a plain pickle": ("w.pt", lambda path: path.write_bytes(pickle.dumps({"a": 1})), "torch.save did not write it"),
    "code": ("weights.pth", lambda path: torch.save(Malicious(), path), "holds a pickled object", "state_dict()"),
    "code beside weights": (
        "weights.pth",
        lambda path: torch.save({"model": {"weight": torch.ones(3)}, "callback": Malicious()}, path),
        "holds a pickled object",
        "of which nothing is executed",
    ),
    "code, legacy": ("weights.pth", legacy, "holds a pickled object", "save model.state_dict() instead"),
    "a whole model": (
        "weights.pth",
        lambda path: torch.save({"model": timm.create_model("test_resnet")}, path),
        "holds a pickled object (timm.",
        "save model.state_dict() instead",
    ),
    "a program": (
        "weights.pt",
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
        "a program of TorchScript",
        "save model.state_dict() instead",
    ),
    "numbers": ("weights.pt", lambda path: torch.save({"a": 3}, path), "is no dictionary of tensors", "give a file"),
    "not finite": ("weights.pt", with_nan, "layer1.0.conv1.weight holds NaN or infinity", "before it diverged"),
    "of this program": ("best-mos.pt", of_this_program, "is a checkpoint of this program", "train.start_from=NAME"),
    "of another network": (
        "weights.pt",
        save_name("resnet18"),
        "do not fit the encoder",
        "0 fit, ",
        "no place (first: ",
        "looks like that of encoder.name=resnet18",
    ),
    "of nothing known": (
        "weights.pt",
        lambda path: torch.save({"fc.weight": torch.ones(3, 3)}, path),
        "do not fit the encoder",
        "give that encoder's own file",
    ),
}


Weights = dict[str, torch.Tensor]


class Callback:
    """What a training program may keep in its checkpoints."""

    def __init__(self):
        self.history = [0.5, 0.4]

    def __setstate__(self, state):
        Path("executed").touch()


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def other(weights: Weights) -> Weights:
    return {name: value + 1 for name, value in weights.items()}


# what torch.save is given for a network's weights
WRAPPED = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": 0.5},
    "net": lambda w: {"net": w, "acc": 93.1, "epoch": 7},
    "nested": lambda w: {"checkpoint": {"model": {"state_dict": w}}},
    "averaged": lambda w: {"state_dict": other(w), "state_dict_ema": w},
    "averaged, model_ema": lambda w: {"model": other(w), "model_ema": w},
    "averaged, ema": lambda w: {"model": other(w), "ema": {"module": w, "decay": 0.99}},
    "DataParallel": lambda w: {"state_dict": prefixed("module.", w)},
    "DDP and compile": lambda w: prefixed("module._orig_mod.", w),
    "compile and DDP": lambda w: {"model": prefixed("_orig_mod.module.", w)},
    "Lightning": lambda w: {"state_dict": {**prefixed("model.", w), "criterion.weight": torch.ones(9)}},
    "encoder": lambda w: {**prefixed("encoder.", w), **prefixed("decoder.", {"weight": torch.ones(9)})},
    "teacher and student": lambda w: {
        "student": prefixed("module.backbone.", other(w)), "teacher": prefixed("backbone.", w)
    },
    "two encoders and a queue": lambda w: {"state_dict": {
        **prefixed("module.encoder_q.", w), **prefixed("module.encoder_k.", other(w)), "module.queue": torch.ones(9)
    }},
    "with arguments": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.7)},
    "with an object beside": lambda w: {"model": w, "callback": Callback()},
    "half precision": lambda w: {name: value.half() for name, value in w.items()},
    "bfloat16 parameters": lambda w: {name: torch.nn.Parameter(value.bfloat16(), False) for name, value in w.items()},
}  # fmt: skip


def loaded(path: Path, name: str = NAME) -> Weights:
    settings = EncoderSettings(name=name, pretrained=False, frozen=False, weights=str(path))
    return build_encoder(settings, 3, 64, (0.4,) * 3, (0.2,) * 3, channels_last=False).backbone.state_dict()


def rounded_weights() -> Weights:
    """Weights that every precision can hold."""
    weights = timm.create_model(NAME, num_classes=7).state_dict()
    return {name: (value * 8).round() / 8 if value.is_floating_point() else value for name, value in weights.items()}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_bad_weights_are_refused(kind, workplace):
    name, make, *words = WEIGHTS[kind]
    if make:
        make(workplace / name)
    with pytest.raises(InputError) as error:
        loaded(Path(name))
    line = str(error.value)
    assert not [word for word in ("encoder.weights", *words) if word not in line], line
    assert "\n" not in line and len(line) <= LONGEST_LINE
    assert "weights_only" not in line and "add_safe_globals" not in line, "no advice to execute what is in it"
    assert not Path("executed").exists()


@pytest.mark.parametrize("kind", ["a folder", "code", "not finite"])
def test_bad_weights_stop_training_with_one_line(kind, preprocessed, workplace, capfd, monkeypatch):
    hurry(monkeypatch)
    shutil.copytree(preprocessed, workplace, dirs_exist_ok=True)
    name, make, *words = WEIGHTS[kind]
    make(workplace / name)
    arguments = [*SMALL, "task=mos", "--fold=0", f"encoder.name={NAME}", f"encoder.weights={name}"]
    refused(capfd, train, arguments, ("encoder.weights", *words))
    assert not Path("executed").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_right_weights_load_out_of_any_wrapping(kind, legacy, workplace):
    weights = rounded_weights()
    content, path = WRAPPED[kind](weights), Path("weights.pth.tar")
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy and kind in ("with arguments", "with an object beside"):
        with pytest.raises(InputError, match="holds a pickled object"):
            loaded(path)
    else:
        for name, value in loaded(path).items():
            assert torch.equal(value, weights[name].to(value.dtype)), name
    assert not Path("executed").exists()


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_right_weights_load_out_of_safetensors(prefix, workplace):
    weights = rounded_weights()
    save_file({name: value.contiguous() for name, value in prefixed(prefix, weights).items()}, "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in loaded(Path("model.safetensors")).items())


@pytest.mark.parametrize("wrap", [lambda w: {"model": w}, lambda w: {"state_dict": prefixed("module.", w)}])
def test_names_that_timm_translates_are_unwrapped_first(wrap, workplace):
    """Names of the authors' own program: timm takes them where nothing is around them."""
    donor = timm.create_model("convnext_atto", num_classes=7).state_dict()
    written = {}
    for name, value in donor.items():
        name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace(".conv_dw.", ".dwconv.")
        name = name.replace(".mlp.fc1.", ".pwconv1.").replace(".mlp.fc2.", ".pwconv2.").replace("head.fc.", "head.")
        written[name.replace("head.norm.", "norm.")] = value
    for stage in (1, 2, 3):
        for part in ("weight", "bias"):
            for place in (0, 1):
                written[f"downsample_layers.{stage}.{place}.{part}"] = written.pop(
                    f"stages.{stage}.downsample.{place}.{part}"
                )
    torch.save(wrap(written), "weights.pth")
    network = loaded(Path("weights.pth"), "convnext_atto")
    assert torch.equal(network["stages.2.blocks.1.conv_dw.weight"], donor["stages.2.blocks.1.conv_dw.weight"])

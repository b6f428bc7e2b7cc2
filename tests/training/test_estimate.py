"""The dry run of training, beside what training would really do."""

from pathlib import Path

import pytest
import torch

from src import train
from src.base.errors import InputError
from src.settings.load import load
from src.training import estimate as dry
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code
from tests.helpers.tiny_captioners import tiny_captioner

LARGE = ["view.size=32", "encoder.name=captioner", "encoder.frozen=false", "encoder.lora_rank=2", "decoder.name=git",
         "decoder.weights=git", "decoder.lora_rank=2", "train.gradient_checkpointing=true"]  # fmt: skip


def real(settings) -> tuple[int, int, int]:
    """Parameters that are trained and in all, and bytes that the backward pass of a micro-batch needs."""
    task = dry._task(settings, 60)
    with dry._saved() as sizes:
        dry._backward(task, settings)
    parameters = list(task.parameters())
    return (
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(p.numel() for p in parameters),
        sum(sizes.values()),
    )


@pytest.mark.parametrize("options", [
    TINY,
    [*TINY, "decoder.name=attention", "train.accumulation_steps=4", "optim.name=sgd", "loss.mos=distribution"],
    [*TINY, "encoder.frozen=true", "encoder.cache=fp32", "encoder.long_side=null", "decoder.name=transformer"],
    [*TINY, "encoder.name=test_vit", "optim.name=adamw8bit", "task=mos"],
    [*TINY, "decoder.name=ctc_mask_predict"],
    LARGE,
])  # fmt: skip
def test_it_tells_what_training_needs(workplace, options, seeded):
    if options is LARGE:
        pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")
        tiny_captioner("git", Path("git"))
    settings = load(["data.root=nowhere", *options], "train")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dry, "_labelled", lambda _: (30, [f"word{i}" for i in range(56)] * 3))
        found = dry.estimate(settings)
    trained, parameters, activations = real(settings)
    assert found.trained == trained and found.trained + found.frozen == parameters and found.copied <= parameters
    assert activations and abs(found.activations / activations - 1) < 0.1
    assert found.operations > 0 and found.states == {"sgd": 4, "adamw8bit": 2}.get(settings.optim.name, 8)
    if options is LARGE:
        assert found.frozen > found.trained and found.copied < parameters / 2


def test_the_command_prints_it_and_leaves_nothing_behind(workplace, competition, capsys):
    before = sorted(Path().rglob("*"))
    train.main(["--estimate", f"data.root={competition}", *TINY, "train.batch_size=8", "train.epochs=3"])
    printed = capsys.readouterr().out
    assert "steps: 4 an epoch, 12 in 3 epochs of 30 photos" in printed and "parameters: " in printed
    assert "8 photos with 1 captions of 40 tokens; 1 of them a step" in printed and "activations" in printed
    train.main(["--estimate", "data.root=nowhere", *TINY])
    assert "not there yet" in capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before


def test_networks_that_cannot_be_run_dry_say_so(workplace, capsys):
    detector = "encoder.name=fasterrcnn_mobilenet_v3_large_320_fpn"
    assert exit_code(train, "--estimate", "data.root=nowhere", *TINY, detector) == 1
    assert "--estimate cannot run encoder.name=fasterrcnn" in capsys.readouterr().err
    with pytest.raises(InputError), torch.device("cpu"):
        dry.estimate(load(["data.root=nowhere", *TINY, "encoder.name=nothing"], "train")[0])

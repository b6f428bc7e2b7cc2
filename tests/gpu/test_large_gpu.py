"""Published captioners on one GPU: the numbers of the CPU, and the same bits after a cut."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src import predict, preprocess, split, train
from tests.conftest import TINY
from tests.gpu.test_gpu import losses, place, predictions, results, together, without_gpu  # noqa: F401
from tests.helpers.cuts import train_one_step
from tests.helpers.tiny_captioners import tiny_captioner
from tests.stages.test_large_pipeline import SETTINGS
from tests.training.test_micro_batches import LINE, limit

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.usefixtures("quick", "together"),
]
FAMILIES = ["blip", "blip2", "git", "vit_gpt2"]
ADAPTED = ["encoder.frozen=false", "encoder.lora_rank=2", "decoder.lora_rank=2"]


def arguments(name: str, competition: Path) -> list[str]:
    """Settings for a tiny captioner that knows the competition's words."""
    pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")
    with open(competition / "train.csv", encoding="utf-8", newline="") as file:
        texts = [row["comments"] for row in csv.DictReader(file)]
    folder = Path("models", name)
    if not folder.exists():
        tiny_captioner(name, folder, texts)
        config = (folder / "config.json").read_text()
        # a GPU draws other numbers for dropout
        (folder / "config.json").write_text(
            re.sub(r'("[a-z_]*(?:dropout|pdrop)[a-z_]*": )[0-9.]+', r"\g<1>0.0", config)
        )
    return [
        *SETTINGS,
        "mos_head.dropout=0",
        f"data.root={competition}",
        f"decoder.name={name}",
        f"decoder.weights={folder}",
        "run.workers=0",
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_predicting_are_those_of_the_cpu(name, competition, monkeypatch):
    settings = [*arguments(name, competition), *ADAPTED, "augment.flip=0", "optim.name=sgd", "optim.lr=0.01"]
    for stage in (preprocess, split):
        stage.main(settings)
    gpu, cpu = f"gpu-{name}", f"cpu-{name}"
    train.main([*settings, f"run.name={gpu}"])
    predict.main([*settings, f"run.name={gpu}"])
    with without_gpu(monkeypatch):
        train.main([*settings, f"run.name={cpu}"])
        predict.main([*settings, f"run.name={cpu}"])
    assert np.abs(losses(gpu) - losses(cpu)).max(axis=None) < 1e-3
    found, other = predictions(gpu), predictions(cpu)
    assert np.abs(found["mos"] - other["mos"]).max() < 1e-3
    assert (found["caption"] == other["caption"]).mean() > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_changes_no_bit(name, competition):
    more = ["train.precision=bf16", "train.gradient_checkpointing=true", "train.checkpoint_steps=1"]
    settings = [*arguments(name, competition), *ADAPTED, *more]
    for stage in (preprocess, split):
        stage.main(settings)
    train.main([*settings, f"run.name=whole-{name}"])
    train_one_step([*settings, f"run.name=cut-{name}"])
    train.main([*settings, f"run.name=cut-{name}"])
    assert results(f"cut-{name}") == results(f"whole-{name}")


def test_eight_bits_and_micro_batches_that_fit_change_no_bit_after_a_cut(competition, monkeypatch, capsys):
    """What was found is kept; BatchNorm, dropout and losses are those of the number set by hand."""
    pytest.importorskip("bitsandbytes", reason="the packages of requirements-large.txt are not installed")
    more = ["--fold=0", "optim.name=adamw8bit", "train.checkpoint_steps=1", "decoder.name=attention"]
    settings = [f"data.root={competition}", *TINY, *more]
    for stage in (preprocess, split):
        stage.main(settings)
    train.main([*settings, "run.name=hand", "train.accumulation_steps=4"])
    limit(monkeypatch, [5])
    auto = [*settings, "train.accumulation_steps=auto"]
    train.main([*auto, "run.name=whole"])
    train_one_step([*auto, "run.name=cut"])
    capsys.readouterr()
    train.main([*auto, "run.name=cut"])
    assert LINE not in capsys.readouterr().out
    assert results("cut") == results("whole")
    assert np.abs(losses("whole") - losses("hand")).max(axis=None) < 1e-3

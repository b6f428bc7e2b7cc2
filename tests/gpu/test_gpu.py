"""One GPU computes what the CPU does, in any precision, ends at the same bits after a cut, and may be too small.

No training step waits for it.
"""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src import caption, predict, train, tune
from src.base.errors import Stopped, hint_of
from src.models.recurrent import Recurrent
from src.settings.schema import DecoderSettings
from src.training.distributed import Replicas
from src.training.optimizer import ExponentialMovingAverage
from tests.conftest import TINY
from tests.helpers import training_steps
from tests.training.test_training import EXACT, PLAIN, prepared  # noqa: F401

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.usefixtures("quick", "together"),
]

CAPTIONERS = ["recurrent", "attention", "transformer", "mask_predict", "ctc_mask_predict"]
REPLICATING = ["training.distributed", "training.engine", "training.validation", "inference.mos_prediction"]
REPLICATING += ["inference.caption_candidates"]
SMALL = [*TINY, "--fold=0", "decoder.heads=4", "run.workers=0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where all tests work, so that the photos are decoded once."""
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture
def together(place, monkeypatch) -> None:
    monkeypatch.chdir(place)


@contextlib.contextmanager
def without_gpu(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def metrics(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("runs") / name / "fold-0" / "metrics.csv")


def losses(name: str) -> pd.DataFrame:
    """The training losses of each epoch."""
    found = metrics(name)
    return found[[column for column in found if column.endswith("loss")]]


def results(name: str) -> dict[str, bytes]:
    place = Path("runs") / name / "fold-0"
    return {file.name: file.read_bytes() for file in [*place.glob("best-*.pt"), place / "metrics.csv"]}


def predictions(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("runs") / name / "predictions" / "oof.csv", dtype={"photo_id": str})


@pytest.mark.parametrize("name", CAPTIONERS)
def test_training_and_predicting_are_those_of_the_cpu(name, competition, monkeypatch):
    arguments = [f"data.root={competition}", *SMALL, *EXACT, *PLAIN, f"decoder.name={name}"]
    gpu, cpu = f"gpu-{name}", f"cpu-{name}"
    train.main([*arguments, f"run.name={gpu}"])
    with without_gpu(monkeypatch):
        for run in (cpu, gpu):
            train.main([*arguments, f"run.name={run}"])
            predict.main([*arguments, f"run.name={run}"])
    others = [predictions(cpu), predictions(gpu)]
    assert np.abs(losses(gpu) - losses(cpu)).max(axis=None) < 1e-4
    predict.main([*arguments, f"run.name={gpu}", "--fresh"])
    found = predictions(gpu)
    for other in others:
        assert np.abs(found["mos"] - other["mos"]).max() < 1e-4
        assert (found["caption"] == other["caption"]).mean() > 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["attention", "ctc_mask_predict"])
def test_a_cut_changes_no_bit(name, precision, competition, monkeypatch):
    extra = [] if name == "ctc_mask_predict" else ["self_critical.from_epoch=1"]
    run = f"{name}-{precision}"
    arguments = [f"data.root={competition}", *SMALL, f"decoder.name={name}", f"train.precision={precision}", *extra]
    arguments += [f"run.name={run}"]
    train.main(arguments)
    expected = results(run)
    assert "best-caption.pt" in expected
    with monkeypatch.context() as patch:
        update = ExponentialMovingAverage.update

        def cut(self, module, averaged):
            update(self, module, averaged)
            if averaged + 1 == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(ExponentialMovingAverage, "update", cut)
        with pytest.raises(Stopped):
            train.main([*arguments, "--fresh"])
    train.main(arguments)
    assert results(run) == expected


@pytest.mark.parametrize("setting", ["train.precision=bf16", "train.precision=fp16", "train.compile=true"])
def test_faster_arithmetic_learns_the_same(setting, competition):
    arguments = [f"data.root={competition}", *SMALL, *EXACT, "decoder.name=transformer"]
    train.main([*arguments, "run.name=plain"])
    fast = setting.replace("=", "-")
    train.main([*arguments, f"run.name={fast}", setting])
    assert np.abs(losses(fast) / losses("plain") - 1).max(axis=None) < 0.03


@pytest.mark.parametrize("name", training_steps.CAPTIONERS)
def test_no_step_waits_for_the_gpu(name, prepared):  # noqa: F811
    _, data = prepared()
    for arguments in training_steps.STEPS:
        settings = training_steps.settings_of(*training_steps.CAPTIONERS[name], *arguments)
        step = training_steps.training_step(settings, data, torch.device("cuda"))
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_caption_speaks_of_a_photo(competition, capsys):
    arguments = [f"data.root={competition}", *SMALL, "run.name=told"]
    train.main(arguments)
    capsys.readouterr()
    photo = next((competition / "test").iterdir())
    caption.main([str(photo), *arguments])
    assert photo.name in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_cells_compute_in_float32_under_bf16(cell):
    decoder = Recurrent(DecoderSettings(cell=cell, hidden=24, embedding=16), 30, 8).cuda().eval()
    inputs = torch.randn(4, 5, decoder.cell.input_size, device="cuda")
    expected, _ = decoder._run(inputs, None)
    with torch.autocast("cuda", torch.bfloat16):
        found, hidden = decoder._run(inputs, None)
        assert {found.dtype, *(each.dtype for each in hidden)} == {torch.float32}
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "precision"), [("attention", "fp32"), ("recurrent", "fp32"), ("recurrent", "bf16")], ids="-".join
)
def test_two_replicas_are_one_network(name, precision, competition, monkeypatch):
    arguments = [f"data.root={competition}", *SMALL, *EXACT, *PLAIN, f"decoder.name={name}"]
    arguments += [f"train.precision={precision}"]
    one, two = f"one-{name}-{precision}", f"two-{name}-{precision}"
    train.main([*arguments, f"run.name={one}"])

    def twice(module, settings, ranks):
        return Replicas(module, device_ids=[0, 0])

    for user in REPLICATING:
        monkeypatch.setattr(f"src.{user}.replicate", twice)
    train.main([*arguments, f"run.name={two}"])
    predict.main([*arguments, f"run.name={two}"])
    tolerance = 1e-5 if precision == "fp32" else 0.03
    assert np.abs(losses(one) - losses(two)).max(axis=None) < tolerance


@pytest.fixture
def small_gpu():
    """A GPU of which this process may use next to nothing beyond what it uses."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_gpu_that_is_too_small_is_said_so(competition, small_gpu):
    with pytest.raises(RuntimeError) as caught:
        train.main([f"data.root={competition}", *SMALL, "decoder.hidden=4096", "decoder.name=transformer"])
    assert "lower train.batch_size" in hint_of(caught.value)


def test_a_trial_that_is_too_large_fails_alone(competition, small_gpu):
    settings = ["tune.trials=3", "tune.epochs=1", "tune.space={decoder.hidden: {choices: [24, 8192]}}"]
    tune.main([f"data.root={competition}", *TINY, "run.workers=0", *settings])
    trials = pd.read_csv(Path("runs") / "demo" / "tune" / "trials.csv")
    assert set(trials["state"]) == {"complete", "fail"} and len(trials) == 3
    assert trials["reason"][trials["state"] == "fail"].str.contains("the GPU's memory is full").all()

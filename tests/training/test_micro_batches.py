"""The step as large as the memory allows: found by halving, kept, and the same result."""

from pathlib import Path

import pytest
import torch

from src import preprocess, split, train
from src.settings.load import load
from src.training import checkpoint
from src.training.distributed import Ranks
from src.training.micro_batches import MemoryFull, MicroBatches
from src.training.task import Task
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code
from tests.helpers.cuts import train_one_step

AUTO = "train.accumulation_steps=auto"
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
LINE = "the memory is full: train.accumulation_steps="


def limit(patch: pytest.MonkeyPatch, photos: list[int]) -> None:
    """Let each pass of a training step hold so many photos, one entry a pass, and the last from then on."""
    forward, left = Task.forward, list(photos)

    def limited(self, images, mode="loss", **inputs):
        if mode in ("loss", "score"):
            most = left.pop(0) if len(left) > 1 else left[0]
            if len(inputs.get("captions", images)) > most:
                raise torch.OutOfMemoryError(FULL)
        return forward(self, images, mode, **inputs)

    patch.setattr(Task, "forward", limited)


def weights(name: str) -> torch.Tensor:
    state = checkpoint.load(Path("runs", name, "fold-0/last.pt"))["engine"]
    return torch.cat([value.double().flatten() for value in (*state["model"].values(), *state["ema"].values())])


@pytest.fixture
def options(workplace, tiny_competition, quick) -> list[str]:
    """A folder to work in, preprocessed, and settings with dropout and batch norms, of 15 photos in batches of 12."""
    options = [f"data.root={tiny_competition}", *TINY, "--fold=0", "train.batch_size=12", "train.checkpoint_steps=1"]
    for stage in (preprocess, split):
        stage.main(options)
    return options


@pytest.mark.parametrize("more", [[], ["loss.plcc=0", "train.epochs=3", "encoder.frozen_epochs=1"]])
def test_it_trains_as_with_the_number_set_by_hand_and_searches_once(options, monkeypatch, capsys, more):
    """Batch norms, dropout and losses over the batch are those of the micro-batches that fit, from the first step."""
    options = [*options, *more]
    train.main([*options, "train.accumulation_steps=4", "run.name=hand"])
    with monkeypatch.context() as patch:
        limit(patch, [5])
        train.main([*options, AUTO, "run.name=whole"])
        printed = capsys.readouterr()
        assert [line[len(LINE):] for line in printed.out.splitlines() if line.startswith(LINE)] == [
            "2, 6 photos at a time", "4, 3 photos at a time"]  # fmt: skip
        for place in range(2):
            train_one_step([*options, AUTO])
            assert (LINE in capsys.readouterr().out) == (place == 0), "what was found is remembered"
    train.main([*options, AUTO])
    assert (weights("whole") - weights("hand")).abs().max() < 1e-5
    assert checkpoint.load(Path("runs/demo/fold-0/last.pt"))["engine"]["accumulation_steps"] == 4
    assert "accumulation_steps" not in checkpoint.load(Path("runs/hand/fold-0/last.pt"))["engine"]
    for file in ("best-mos.pt", "best-caption.pt", "metrics.csv"):
        assert Path("runs/demo/fold-0", file).read_bytes() == Path("runs/whole/fold-0", file).read_bytes()


def test_memory_that_is_full_in_the_middle_of_a_later_step(options, monkeypatch, capsys):
    """A step that was begun in vain leaves nothing behind: no gradient, no batch statistics, no loss."""
    exact = ["encoder.name=test_convnext", "decoder.dropout=0", "mos_head.dropout=0", "loss.plcc=0"]
    train.main([*options, *exact, "run.name=hand"])
    with monkeypatch.context() as patch:
        limit(patch, [*[6] * 6, 3, 6])  # steps of 12 and 3 photos in two parts; the third fails in its second part
        train.main([*options, *exact, AUTO])
    assert capsys.readouterr().out.count(LINE) == 2
    assert (weights("demo") - weights("hand")).abs().max() < 1e-5
    hand, found = (Path("runs", name, "fold-0/metrics.csv").read_text().splitlines() for name in ("hand", "demo"))
    for ours, theirs in zip(found[1:], hand[1:], strict=True):
        numbers = [[float(cell or 0) for cell in line.split(",")] for line in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_where_not_even_one_photo_fits_one_line_says_so(options, monkeypatch, capsys):
    limit(monkeypatch, [0])
    for more, lines in (([AUTO], 4), ([AUTO, "train.batch_size=5", "run.name=uneven"], 3), (["run.name=fixed"], 0)):
        assert exit_code(train, *options, *more) == 1
        printed = capsys.readouterr()
        assert printed.out.count(LINE) == lines
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        advice = "does not hold the step of one photo: lower view.size" if lines else "is full: lower train.batch_size"
        assert len(errors) == 1 and f"the GPU's memory {advice}" in errors[0]


def test_what_one_process_found_is_no_more_than_one_photo_a_part_in_many():
    batches = MicroBatches(load([AUTO, "train.batch_size=32"], "train")[0], Ranks(0, 4, torch.device("cpu")))
    batches.load_state({"accumulation_steps": 32})
    assert batches.count == 8


def test_a_library_s_own_error_of_full_memory_counts_and_another_does_not():
    batches = MicroBatches(load([AUTO], "train")[0], Ranks(0, 1, torch.device("cpu")))

    def fail(reason: str) -> None:
        raise RuntimeError(reason)

    with pytest.raises(MemoryFull):
        batches.before_exchange(True, fail, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    with pytest.raises(RuntimeError, match="another"):
        batches.before_exchange(True, fail, "another fault")


def test_a_number_that_is_found_has_limits(capsys):
    with pytest.raises(SystemExit, match="train.sync_batchnorm ties the processes"):
        load([AUTO, "train.sync_batchnorm=true"], "train")
    with pytest.raises(SystemExit, match="expected a whole number or one of auto, at least 1"):
        load(["train.accumulation_steps=automatic"], "train")
    assert load([AUTO, "train.batch_size=7"], "train")[0].train.micro_batches == 1

"""AdamW whose state takes eight bits a number, beside torch's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="the packages of requirements-large.txt are not installed")

from src import preprocess, split
from src.settings.schema import OptimSettings
from src.training import checkpoint, optimizer
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code, small_competition
from tests.helpers.cuts import train_whole_and_in_pieces

EIGHT_BITS = ["optim.name=adamw8bit", "task=mos", "--fold=0"]


class Regression(torch.nn.Module):
    """What `build_optimizer` takes of a task: a network with an encoder, without late stages."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.encoder, self.model.late_stages = torch.nn.Linear(96, 64), None
        self.model.encoder.layers = lambda: [[self.model.encoder.weight]]
        self.head = torch.nn.Linear(64, 64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.model.encoder(inputs).relu())


def test_it_learns_as_torch_s_adamw_does(seeded):
    """Losses within 5 % of AdamW's, weights within a tenth of their change, the same parameter groups."""
    start, inputs, target = Regression(), torch.randn(256, 96), torch.randn(256, 1).expand(-1, 64)
    losses, changes, groups = [], [], []
    for name in ("adamw", "adamw8bit"):
        task = Regression()
        task.load_state_dict(start.state_dict())
        settings = OptimSettings(name=name, lr=2e-3, encoder_lr_mult=0.5, weight_decay=0.1)
        built = optimizer.build_optimizer(task, settings)
        optimizer.set_learning_rate(built, settings.lr)
        seen = []
        for _ in range(100):
            built.zero_grad()
            loss = (task(inputs) - target).square().mean()
            loss.backward()
            built.step()
            seen.append(loss.item())
        losses.append(torch.tensor(seen))
        changes.append([(a - b).flatten() for a, b in zip(task.parameters(), start.parameters(), strict=True)])
        groups.append([(len(group["params"]), group["lr"], group["weight_decay"]) for group in built.param_groups])
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
    assert groups[0] == groups[1] and losses[0][-1] < 0.5 * losses[0][0]
    for eight_bits, full in zip(changes[1], changes[0], strict=True):
        assert (eight_bits - full).norm() < 0.1 * full.norm()
    assert built.state[task.head.weight]["state1"].dtype == torch.uint8


def test_a_run_that_is_cut_off_ends_at_the_same_bytes(workplace, tiny_competition):
    options = [f"data.root={tiny_competition}", *TINY, *EIGHT_BITS, "train.checkpoint_steps=1", "train.batch_size=8"]
    for stage in (preprocess, split):
        stage.main(options)
    train_whole_and_in_pieces(options)
    ours, theirs = ([*_moments(Path("runs", name, "fold-0/last.pt"))] for name in ("demo", "whole"))
    assert torch.uint8 in {value.dtype for value in ours} and len(ours) == len(theirs) > 10
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for file in ("best-mos.pt", "metrics.csv"):
        assert Path("runs/demo/fold-0", file).read_bytes() == Path("runs/whole/fold-0", file).read_bytes()


def _moments(last: Path) -> Iterator[torch.Tensor]:
    """What the optimiser's state in a checkpoint holds of each parameter."""
    for state in checkpoint.load(last)["engine"]["optimizer"]["state"].values():
        for part in state.values():
            values = part.values() if isinstance(part, dict) else [part]
            yield from (value for value in values if isinstance(value, torch.Tensor))


def does_nothing(groups, lr):
    return torch.optim.SGD(groups, lr=0.0)


def fails(groups, lr):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


@pytest.mark.parametrize(("fault", "message"), [
    (("find_spec", lambda _: None), "needs bitsandbytes: .venv/bin/python -m pip install -r requirements-large.txt"),
    (("_adamw8bit", fails), "does not work on this cpu (no kernel image is available for execution on the device)"),
    (("_adamw8bit", does_nothing), "does not work on this cpu (its step is wrong); give adamw"),
])  # fmt: skip
def test_where_it_does_not_work_one_line_says_so_at_once(workplace, monkeypatch, capsys, fault, message):
    small_competition(workplace / "data")
    monkeypatch.setattr(optimizer, *fault)
    arguments = ["data.root=data", *TINY, *EIGHT_BITS]
    assert exit_code(preprocess, "--check", *arguments) == 1
    assert message in (told := capsys.readouterr().err) and len(told.splitlines()) == 1

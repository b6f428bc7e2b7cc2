"""A training step never waits for the GPU: checked on the CPU by the operators it calls (on a GPU: tests/gpu)."""

import pytest
import torch

from src.training import task as task_module
from src.training.fold_data import FoldData
from tests.helpers.training_steps import (
    CACHED,
    CAPTIONERS,
    STEPS,
    nothing_waits,
    settings_of,
    task_and_batch,
    training_step,
)
from tests.training.test_training import prepared  # noqa: F401

numbers = torch.arange(6.0).view(2, 3)
WAITING = {
    "item": lambda: numbers.sum().item(),
    "bool": lambda: bool(numbers.any()),
    "int": lambda: int(numbers.max()),
    "list": lambda: numbers.tolist(),
    "numpy": lambda: numbers.cpu().numpy(),
    "mask": lambda: numbers[numbers > 2],
    "put": lambda: numbers.clone().index_put_((numbers > 2,), numbers[0]),
    "nonzero": lambda: numbers.nonzero(),
    "where": lambda: torch.where(numbers > 2),
    "select": lambda: numbers.masked_select(numbers > 2),
    "unique": lambda: numbers.unique(),
    "consecutive": lambda: numbers.unique_consecutive(),
    "equal": lambda: torch.equal(numbers, numbers),
    "repeat": lambda: numbers.repeat_interleave(numbers[:, 1].long(), 0),
    "new": lambda: numbers.new_tensor([1.0]),
    "tensor": lambda: torch.tensor([1.0]),
    "assign": lambda: numbers.clone().__setitem__((numbers[0].long() % 2, numbers[0].long()), 1.0),
    "gather": lambda: numbers.clone().requires_grad_().gather(1, numbers.long() % 3).sum().backward(),
    "ctc": lambda: torch.nn.functional.ctc_loss(
        numbers.view(2, 1, 3).log_softmax(2), torch.ones(1, 1).long(), torch.tensor([2]), torch.tensor([1])
    ),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_would_wait_is_noticed(name):
    WAITING[name]()
    with pytest.raises(AssertionError, match="would wait"), nothing_waits():
        WAITING[name]()


@pytest.fixture(scope="module")
def data(prepared) -> FoldData:  # noqa: F811
    return prepared()[1]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The photos and captions to learn from are chosen as on a device that is not the CPU."""
    choose = task_module._rows_to_learn
    monkeypatch.setattr(task_module, "_rows_to_learn", lambda labelled: choose(labelled.to("meta")))


@pytest.mark.parametrize("name", CAPTIONERS)
def test_no_step_waits_for_a_gpu(name, data, as_on_a_gpu):
    for arguments in STEPS:
        step = training_step(settings_of(*CAPTIONERS[name], *arguments), data, torch.device("cpu"))
        step()
        with nothing_waits():
            step()


@pytest.mark.parametrize("name", CAPTIONERS)
def test_to_leave_out_what_has_no_label_changes_no_loss(name, data, request):
    plain = ["decoder.dropout=0", "mos_head.dropout=0", "scheduled_sampling.probability=0"]
    task, batch = task_and_batch(settings_of(*CAPTIONERS[name], *CACHED, *plain), data)
    del batch["row"]
    left_out = task(**batch)
    request.getfixturevalue("as_on_a_gpu")
    for key, value in task(**batch).items():
        torch.testing.assert_close(value, left_out[key], msg=key)

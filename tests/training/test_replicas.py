"""The replicas of parallel=dp, simulated on a CPU, and the processes' tensors."""

import contextlib
import importlib

import pytest
import torch
from torch import nn

from src.training.distributed import Ranks, Replicas

ONE = torch.device("cpu")


class Probe(nn.Linear):
    """Keeps what it computes under."""

    def forward(self, values: torch.Tensor) -> tuple[bool, bool, torch.Tensor]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), super().forward(values)


@pytest.fixture
def threads_on_cpu(monkeypatch):
    """torch.nn.parallel.parallel_apply takes the CPU for two GPUs."""
    apply = importlib.import_module("torch.nn.parallel.parallel_apply")
    monkeypatch.setattr(apply, "_get_device_index", lambda device, optional: device)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: ONE)
    for name in ("current_stream", "device_index"):
        monkeypatch.setattr(torch.accelerator, name, lambda device: contextlib.nullcontext())


def outputs_of_two(photos: torch.Tensor) -> list[tuple[bool, bool, torch.Tensor]]:
    """What two replicas of a Probe return in threads, for half of the photos each."""
    probe = Probe(4, 3)
    replicas = Replicas(probe)
    replicas.device_ids, replicas.src_device_obj = [0, 1], ONE
    return replicas.parallel_apply([probe, probe], [(part,) for part in photos.chunk(2)], [{}, {}])


@pytest.mark.parametrize(
    ("mode", "inference", "gradients"),
    [(torch.inference_mode, True, False), (torch.no_grad, False, False), (torch.enable_grad, False, True)],
)
def test_replicas_are_in_the_mode_of_their_caller(mode, inference, gradients, threads_on_cpu):
    with mode():
        outputs = outputs_of_two(torch.rand(6, 4))
    for inferring, learning, output in outputs:
        assert (inferring, learning) == (inference, gradients)
        assert output.is_inference() == inference and output.requires_grad == gradients
        assert output.dtype == torch.float32 and output.shape == (3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_replicas_compute_in_the_precision_of_their_caller(dtype, threads_on_cpu):
    with torch.autocast("cpu", dtype):
        assert [output.dtype for _, _, output in outputs_of_two(torch.rand(6, 4))] == [dtype, dtype]


def test_tensors_are_gathered_in_the_group_of_tensors(monkeypatch):
    """Its collectives time out within minutes, those of objects within hours."""
    groups = []
    monkeypatch.setattr(torch.distributed, "all_gather", lambda tensors, own, group=None: groups.append(group))
    ranks = Ranks(0, 2, ONE, object())
    assert ranks.all_gather_tensor(torch.zeros(3)).shape == (2, 3)
    assert groups == [ranks.tensor_group]

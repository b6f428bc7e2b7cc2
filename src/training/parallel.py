"""One device, several GPUs in one process (DataParallel), or one process per GPU (DDP under torchrun)."""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from src.errors import InputError
from src.settings import Settings


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun: its number, their count, and the device it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, in the order of their ranks, on every process."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The value that the main process has, on every process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def any_of(self, number: int) -> int:
        """The greatest of the processes' numbers."""
        return max(self.gather(number))

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors with those of the main process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor


def join() -> Ranks:
    """Join the other processes where torchrun started this one, over NCCL on GPUs and gloo on CPUs."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    gpus = torch.cuda.is_available()
    if count == 1:
        return Ranks(0, 1, torch.device("cuda" if gpus else "cpu"))
    local = int(os.environ["LOCAL_RANK"])
    if gpus:
        if local >= torch.cuda.device_count():
            raise InputError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs there are")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=datetime.timedelta(hours=12))
    return Ranks(dist.get_rank(), count, torch.device("cuda", local) if gpus else torch.device("cpu"))


def leave() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def replicate(module: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module on every GPU that parallel=dp may use, each taking a part of the batch."""
    several = ranks.device.type == "cuda" and ranks.count == 1 and torch.cuda.device_count() > 1
    return nn.DataParallel(module) if settings.parallel == "dp" and several else module


def wrap(task: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module to train: forward and backward use all that `parallel` names."""
    if ranks.count > 1:
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(task, device_ids=devices)
    return replicate(task, settings, ranks)


def notice(settings: Settings, ranks: Ranks) -> str:
    """One plain sentence where what `parallel` names is not there, else ""."""
    gpus = torch.cuda.device_count() if ranks.device.type == "cuda" else 0
    if settings.parallel == "dp" and gpus < 2:
        return f"parallel=dp: {gpus or 'no'} GPU here, so everything runs on one device ({ranks.device})"
    if settings.parallel == "ddp" and ranks.count == 1:
        start = f"torchrun --nproc-per-node={max(gpus, 2)} -m src.train"
        return f"parallel=ddp: this is one process; {start} starts several"
    return ""

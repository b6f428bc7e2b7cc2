"""One device, several GPUs in one process (DataParallel), or one process per GPU (DDP under torchrun)."""

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import timm.layers
import torch
import torch.distributed as dist
from torch import nn

from src.base.errors import InputError
from src.settings.schema import Settings

_PATIENCE = timedelta(hours=12)  # the others wait while the main process prepares data, caches features or scores
_STEP = timedelta(minutes=10)  # within a step nobody is that late unless a machine is lost
_STORAGE_LAGS = 60.0  # seconds until a network's storage shows everywhere what one machine wrote


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun: its number, their count, and the device it computes on.

    within_steps: the process group of tensors, whose members are not waited for as long as for those of objects.
    """

    rank: int
    count: int
    device: torch.device
    within_steps: "dist.ProcessGroup | None" = None

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, in the order of their ranks, on every process."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def all_gather_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors [...] of all processes, which have one shape, as [processes, ...]."""
        if self.count == 1:
            return tensor.unsqueeze(0)
        tensors = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(tensors, tensor.contiguous())
        return torch.stack(tensors)

    def broadcast(self, value: Any) -> Any:
        """The value that the main process has, on every process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def places(self, find: Callable[[], list[Path]]) -> list[Path]:
        """The files and folders that `find` names in the main process, seen by every process.

        Raises InputError where one is absent, as on a machine that does not share the storage.
        """
        places = self.broadcast(find() if self.main else None)
        for place in places:
            until = time.monotonic() + _STORAGE_LAGS
            while not place.exists():
                if time.monotonic() > until:
                    raise InputError(
                        f"{place} is not there on {socket.gethostname()}, for process {self.rank} of {self.count}: "
                        "all machines must share the storage of run.root and start in the same folder"
                    )
                time.sleep(0.5)
        return places

    def any_of(self, number: int) -> int:
        """The greatest of the processes' numbers."""
        return max(self.all_gather(number))

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors with those of the main process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0, group=self.within_steps)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor, group=self.within_steps)
        return tensor


def init_ranks() -> Ranks:
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
        dist.init_process_group("nccl" if gpus else "gloo", timeout=_PATIENCE)
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    return Ranks(dist.get_rank(), count, device, dist.new_group(timeout=_STEP))


def shutdown(ranks: Ranks) -> None:
    """Part from the other processes, once all have come here."""
    ranks.broadcast(None)
    if ranks.count > 1:
        dist.destroy_process_group()


def replicate(module: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module on every GPU that parallel=dp may use, each taking a part of the batch."""
    several = ranks.device.type == "cuda" and ranks.count == 1 and torch.cuda.device_count() > 1
    return nn.DataParallel(module) if settings.parallel == "dp" and several else module


def wrap(task: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module to train: forward and backward use all that `parallel` names."""
    if ranks.count > 1:
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(task, device_ids=devices, process_group=ranks.within_steps)
    return replicate(task, settings, ranks)


def synchronise(module: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module, its BatchNorm over the batches of all processes where train.sync_batchnorm asks for that.

    Its parameters stay the same objects. Raises InputError on CPUs, for which torch has no such layer.
    """
    if not settings.train.sync_batchnorm:
        return module
    if ranks.device.type != "cuda":
        raise InputError("train.sync_batchnorm=true needs GPUs, and there is none here; leave it out")
    # timm's conversion, not torch's, which would drop the activation inside timm's BatchNormAct2d
    return timm.layers.convert_sync_batchnorm(module, ranks.within_steps) if ranks.count > 1 else module


def notice(settings: Settings, ranks: Ranks) -> str:
    """One plain sentence where what `parallel` names is not there, else ""."""
    gpus = torch.cuda.device_count() if ranks.device.type == "cuda" else 0
    if settings.parallel == "dp" and gpus < 2:
        return f"parallel=dp: {gpus or 'no'} GPU here, so everything runs on one device ({ranks.device})"
    if settings.parallel == "ddp" and ranks.count == 1:
        start = f"torchrun --nproc-per-node={max(gpus, 2)} -m src.train"
        return f"parallel=ddp: this is one process; {start} starts several"
    return ""

"""One device, several GPUs in one process (DataParallel), or one process per GPU (DDP under torchrun)."""

import contextlib
import os
import socket
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from src.base.errors import InputError
from src.settings.schema import Settings

_OBJECT_TIMEOUT = timedelta(hours=12)  # the others wait while rank 0 prepares data, caches features or scores
_TENSOR_TIMEOUT = timedelta(minutes=10)  # within a step nobody is that late unless a machine is lost
_BUCKET = 8_000_000  # gradients that are exchanged at a time, of which a copy is made
_STORAGE_DELAY = 60.0  # seconds until a network's storage shows everywhere what one machine wrote

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun: its rank, how many there are, and the device that it computes on.

    tensor_group: the process group for tensors, whose collectives time out sooner than those of Python objects.
    """

    rank: int
    world_size: int
    device: torch.device
    tensor_group: "dist.ProcessGroup | None" = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """The picklable values of all processes, in the order of their ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_gather_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors [...] of all processes, which have one shape, as [world_size, ...]."""
        if self.world_size == 1:
            return tensor.unsqueeze(0)
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(tensors, tensor.contiguous(), group=self.tensor_group)
        return torch.stack(tensors)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensor over all processes; the tensor is overwritten with it."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.tensor_group)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value, on every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0, group=self.tensor_group)

    def average_gradients(self, module: nn.Module) -> None:
        """Replace the gradients of the module's parameters by their means over all processes, which have the same."""
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        while self.world_size > 1 and gradients:
            sizes = list(accumulate(gradient.numel() for gradient in gradients))
            count = max(1, bisect_right(sizes, _BUCKET))
            bucket, gradients = gradients[:count], gradients[count:]
            mean = self.all_reduce(torch.cat([gradient.flatten() for gradient in bucket])).div_(self.world_size)
            for gradient, part in zip(bucket, mean.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def shared_paths(self, find: Callable[[], list[Path]]) -> list[Path]:
        """The files and folders that `find` returns on rank 0 (it is called there only), once every process sees them.

        Raises InputError where one stays absent, as on a machine that does not share the storage.
        """
        paths = self.broadcast(find() if self.main else None)
        for path in paths:
            deadline = time.monotonic() + _STORAGE_DELAY
            while not path.exists():
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{path} is not there on {socket.gethostname()}, for process {self.rank} of "
                        f"{self.world_size}: all machines must share the storage of run.root and start in the same "
                        "folder"
                    )
                time.sleep(0.5)
        return paths


def init_ranks() -> Ranks:
    """Join the other processes where torchrun started this one, over NCCL on GPUs and gloo on CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    gpus = torch.cuda.is_available()
    if world_size == 1:
        return Ranks(0, 1, torch.device("cuda" if gpus else "cpu"))
    local_rank = int(os.environ["LOCAL_RANK"])
    if gpus:
        if local_rank >= torch.cuda.device_count():
            raise InputError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs there are")
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=_OBJECT_TIMEOUT)
    group = dist.new_group(timeout=_TENSOR_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return Ranks(dist.get_rank(), world_size, torch.device("cuda", local_rank) if gpus else torch.device("cpu"), group)


def shutdown(ranks: Ranks) -> None:
    """Leave the process group, once all processes have come here."""
    ranks.broadcast(None)
    if ranks.world_size > 1:
        dist.destroy_process_group()


class Replicas(nn.DataParallel):
    """DataParallel whose threads compute as their caller: torch passes on neither inference mode nor autocast's dtype.

    Both belong to a thread. Without them bf16 would be fp16, and a recurrent cell could not align its weights.
    """

    def parallel_apply(self, replicas: Sequence[nn.Module], inputs: Sequence[Any], kwargs: Any) -> list[Any]:
        device = self.src_device_obj.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        inference = torch.is_inference_mode_enabled()

        def as_the_caller(replica: nn.Module) -> Callable[..., Any]:
            def forward(*args: Any, **named: Any) -> Any:
                # inference_mode(False) would switch gradients on
                mode = torch.inference_mode() if inference else contextlib.nullcontext()
                with mode, torch.autocast(device, dtype, enabled):
                    return replica(*args, **named)

            return forward

        # torch only calls what it is given
        return super().parallel_apply([as_the_caller(each) for each in replicas], inputs, kwargs)


def replicate(module: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module on every GPU that parallel=dp may use, each taking a part of the batch."""
    other_gpus = ranks.device.type == "cuda" and ranks.world_size == 1 and torch.cuda.device_count() > 1
    return Replicas(module) if settings.parallel == "dp" and other_gpus else module


def wrap(task: nn.Module, settings: Settings, ranks: Ranks) -> nn.Module:
    """The module to train with: under torchrun DDP, which exchanges gradients; else as `replicate`."""
    if ranks.world_size > 1:
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(task, device_ids=devices, process_group=ranks.tensor_group)
    return replicate(task, settings, ranks)


def sync_batchnorm(module: M, settings: Settings, ranks: Ranks) -> M:
    """The module, its BatchNorm over the batches of all processes where train.sync_batchnorm asks for that.

    Its parameters stay the same objects. Raises InputError on CPUs, for which torch has no such layer.
    """
    if not settings.train.sync_batchnorm:
        return module
    if ranks.device.type != "cuda":
        raise InputError("train.sync_batchnorm=true needs GPUs, and there is none here; leave it out")
    if ranks.world_size == 1:
        return module
    from timm.layers import convert_sync_batchnorm  # torch's would drop the activation inside timm's BatchNormAct2d

    return convert_sync_batchnorm(module, ranks.tensor_group)


def accept_single_values(module: M) -> M:
    """The module, whose BatchNorms in training take a channel's single value by their running statistics.

    Torch refuses it, as it has no statistics of its own. It comes of one photo whose feature map is a single cell: the
    last one of an epoch, a micro-batch, or the part of a batch that a process or a GPU gets. SyncBatchNorm has the
    values of all processes and stays as it is.
    """
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not isinstance(norm, nn.SyncBatchNorm):
            norm.register_forward_pre_hook(_leave_training_for_a_single_value)
            norm.register_forward_hook(_return_to_training, always_call=True)
    return module


def _leave_training_for_a_single_value(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    if norm.training and inputs[0].numel() == inputs[0].shape[1]:
        norm.training, norm.has_left_training = False, True


def _return_to_training(norm: Any, *_: object) -> None:
    if getattr(norm, "has_left_training", False):
        norm.training, norm.has_left_training = True, False


def notice(settings: Settings, ranks: Ranks) -> str:
    """One sentence where what `parallel` names is not there, else ""."""
    gpus = torch.cuda.device_count() if ranks.device.type == "cuda" else 0
    if settings.parallel == "dp" and gpus < 2:
        return f"parallel=dp: {gpus or 'no'} GPU here, so everything runs on one device ({ranks.device})"
    if settings.parallel == "ddp" and ranks.world_size == 1:
        start = f"torchrun --nproc-per-node={max(gpus, 2)} -m src.train"
        return f"parallel=ddp: this is one process; {start} starts several"
    return ""

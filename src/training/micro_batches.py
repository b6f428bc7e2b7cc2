"""The parts that a step's batch is divided into, so that the memory of every process holds one."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.infer import map_tensors

T = TypeVar("T")


class MemoryFull(Exception):
    """The memory of a process was too small for its part of a step; raised in all of them."""


class MicroBatches:
    """How many parts a step has: `count`, found step by step where train.accumulation_steps=auto."""

    def __init__(self, settings: Settings, ranks: Ranks):
        self.ranks, self.count = ranks, settings.train.micro_batches
        self.automatic = settings.train.accumulation_steps == "auto"
        self.most = -(-settings.train.batch_size // ranks.world_size)  # photos of a step that a process has

    def state(self) -> dict[str, int]:
        """What a checkpoint holds of it, so that a resumed run does not search again."""
        return {"accumulation_steps": self.count} if self.automatic else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, perhaps in another number of processes."""
        self.count = min(state.get("accumulation_steps", self.count), self.most) if self.automatic else self.count

    def run(
        self, backward: Callable[[], None], task: nn.Module, optimizer: torch.optim.Optimizer, sums: torch.Tensor
    ) -> None:
        """Compute a step's gradients by `backward`; where it is automatic, anew in twice as many parts if a memory is
        full.

        sums: what `backward` adds the losses to. Raises OutOfMemoryError where not even one photo fits.
        """
        if not self.automatic:
            return backward()
        self.ranks.broadcast_tensors(task.buffers())  # as DDP does
        changed = [*task.buffers(), sums]
        before = [tensor.clone() for tensor in changed]
        while reason := self._full(backward):
            if self.count >= self.most:
                raise torch.OutOfMemoryError(f"not even one photo fits: {reason}")
            self.count = min(2 * self.count, self.most)
            optimizer.zero_grad(set_to_none=True)
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
            if self.ranks.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.ranks.main:
                photos = -(-self.most // self.count)
                tqdm.write(f"the memory is full: train.accumulation_steps={self.count}, {photos} photos at a time")
        self.ranks.average_gradients(task)

    def _full(self, backward: Callable[[], None]) -> str:
        """Whose memory was full, or "" where the gradients are there."""
        try:
            self._agreed(backward)
        except MemoryFull as error:
            return str(error)
        return ""

    def before_exchange(self, exchanged: bool, part: Callable[..., T], *arguments: Any) -> T:
        """What `part` returns. Where it is `exchanged` next, all raise MemoryFull if one would not come to that."""
        return self._agreed(part, *arguments) if self.automatic and exchanged else part(*arguments)

    def _agreed(self, part: Callable[..., T], *arguments: Any) -> T:
        """What `part` returns in this process. Raises MemoryFull in all where the memory of one was full."""
        results, reason = [], ""
        try:
            results.append(part(*arguments))
        except RuntimeError as error:
            # cuBLAS and cuDNN have an error of their own
            if not isinstance(error, torch.OutOfMemoryError) and "ALLOC_FAILED" not in str(error):
                raise
            reason = str(error)  # not the error, whose frames hold what fills the memory
        full = bool(reason)
        if self.ranks.world_size > 1:
            flag = torch.full((1,), float(full), device=self.ranks.device)
            full = bool(self.ranks.all_reduce(flag).item())
        if full:
            raise MemoryFull(reason or "out of memory in another process")
        return results[0]


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """What the task takes of each micro-batch: all but the photos' rows.

    Where there are fewer photos than parts, a photo without labels fills a part: under DDP all processes must take part
    in every pass.
    """
    batch = {name: value for name, value in batch.items() if name != "row"}
    if parts == 1:
        return [batch]
    first = map_tensors(batch, lambda tensor: tensor[:1])
    blank = {**first, "mos": first["mos"] * torch.nan, "captions": torch.zeros_like(first["captions"])}

    def micro_batch(part: int) -> dict[str, Any]:
        return map_tensors(batch, lambda tensor: tensor.tensor_split(parts)[part])

    return [micro_batch(part) if part < len(batch["mos"]) else blank for part in range(parts)]

"""Inference on many photos, divided among all processes."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from src.base.errors import InputError
from src.base.machine import return_freed_memory
from src.data.dataset import BatchDataset, BatchSlice
from src.data.labels import Labels
from src.data.loading import load_batches
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.metrics_log import progress

_TRIM_EVERY = 20  # batches: what photos leave behind lies between what their batches have freed
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: Settings, device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision as train.precision names it. Raises InputError for fp16 without a GPU."""
    if settings.train.precision == "fp32":
        return contextlib.nullcontext()
    if settings.train.precision == "fp16" and device.type != "cuda":
        raise InputError("train.precision=fp16 needs a GPU, and there is none here; use bf16 or fp32")
    return torch.autocast(device.type, _DTYPES[settings.train.precision])


def map_tensors(batch: dict[str, Any], function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """The batch with the function applied to each tensor, those of nested dicts included."""
    return {k: map_tensors(v, function) if isinstance(v, dict) else function(v) for k, v in batch.items()}


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with all tensors on the device."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def infer(
    read: Callable[[dict[str, Any]], list],
    labels: Labels,
    rows: list[int],
    settings: Settings,
    ranks: Ranks,
    label: str,
    uniforms_per_token: int = 0,
    crop: int = 0,
) -> dict[int, Any]:
    """What `read` returns for each photo, by row in the order of `rows`; computed by all processes, complete on each.

    read: takes a batch on the device, returns one value a photo. uniforms_per_token: see BatchDataset. crop: which
    native crop of the photos. No photo is read twice. Processes share whole batches, not photos, because a photo's
    value is rounded by the batch that it is in: results are equal for any number of processes.
    """
    size = settings.train.batch_size
    batches = [BatchSlice(-1, np.array(rows[i : i + size], np.int64), crop=crop) for i in range(0, len(rows), size)]
    batches = batches[ranks.rank :: ranks.world_size]
    values: dict[int, Any] = {}
    with torch.inference_mode(), progress(sum(len(s.rows) for s in batches), 0, label, ranks.main) as bar:
        loaded = load_batches(BatchDataset(labels, None, 0, 1, uniforms_per_token), batches, 0, False)
        for batches_read, batch in enumerate(loaded, 1):
            batch = to_device(batch, ranks.device)
            with autocast(settings, ranks.device):
                outputs = read(batch)
            values.update(zip(batch["row"].tolist(), outputs, strict=True))
            bar.update(len(outputs))
            if batches_read % _TRIM_EVERY == 0:
                return_freed_memory()
    gathered = {row: value for part in ranks.all_gather(values) for row, value in part.items()}
    return {row: gathered[row] for row in rows}

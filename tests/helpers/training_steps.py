"""Steps of training for every captioner, and a mode that fails on what would wait for a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from src.data.dataset import BatchDataset, rank_slice
from src.models.decoder import PAD
from src.models.encoder import CachedEncoder, EncoderShape, views_of
from src.settings.load import load
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fold_data import FoldData
from src.training.fold_task import build_task
from src.training.infer import to_device
from src.training.task import Task
from tests.conftest import TINY

CAPTIONERS = {
    "recurrent": ["decoder.name=recurrent", "loss.balance=uncertainty", "loss.label_smoothing=0.1"],
    "attention-gru": ["decoder.name=attention", "decoder.cell=gru", "scheduled_sampling.probability=0.5"],
    "attention-lstm": ["decoder.name=attention", "decoder.cell=lstm", "loss.attention_weight=1"],
    "updown": ["decoder.name=updown", "loss.label_smoothing=0.1", "loss.mos=distribution"],
    "transformer": ["decoder.name=transformer", "optim.name=sgd"],
    "mask_predict": ["decoder.name=mask_predict", "loss.label_smoothing=0.1"],
    "ctc_mask_predict": ["decoder.name=ctc_mask_predict", "decoder.length=regression"],
}
"""Settings of every captioner, and of what else a step may do."""
CACHED = ["encoder.frozen=true", "encoder.more_levels=[]", "encoder.fine_tuned=test_resnet", "encoder.frozen_stages=1"]
"""Features that are cached, levels and a stage that is trained on among them."""
STEPS = [[], [*CACHED, "train.accumulation_steps=2"]]
"""Settings of the steps that each of them takes, first from pixels."""
_EVERYTHING = [
    *("loss.plcc=0.5", "loss.rank=0.3", "loss.srcc=0.2", "train.captions_per_photo=2", "train.batch_size=8"),
    *("decoder.heads=4", "decoder.attention=16", "scheduled_sampling.increase=0.5"),
]


def settings_of(*arguments: str) -> Settings:
    """Small networks with several captions a photo, and losses that compare photos."""
    return load([*TINY, *_EVERYTHING, *arguments], "train")[0]


def task_and_batch(settings: Settings, data: FoldData) -> tuple[Task, dict[str, Any]]:
    """The fold's task, and a batch of eight photos, some of them without a MOS, a caption, or both."""
    task = build_task(settings, data, 0)
    dataset = BatchDataset(data.labels, None, 0, settings.train.captions_per_photo, task.uniforms_per_token)
    batch = dataset[rank_slice(data.train_rows[:8], 0, 1, 0)]
    batch["mos"][1:3] = torch.nan
    batch["captions"][2:4], batch["captions"][5, 1] = PAD, PAD
    if settings.encoder.cached:
        views = views_of(task.model.encoder, batch["images"], mirrored=False)
        batch["images"] = {name: view[:, 0].clone() for name, view in views.items()}
        task.model.encoder = CachedEncoder(EncoderShape.of(task.model.encoder))
    return task, batch


def training_step(settings: Settings, data: FoldData, device: torch.device) -> Callable[[], None]:
    """A function that takes an optimiser step; the batch is on the device already."""
    task, batch = task_and_batch(settings, data)
    engine = Engine(task, settings, Ranks(0, 1, device))
    engine.begin_epoch(0)
    return partial(engine._step, to_device(batch, device))


_READS = {"_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "multinomial"} | {
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "_ctc_loss"),
    "lift_fresh",  # a tensor of numbers on the host, which are copied from memory that is not pinned
}
"""Operators that read numbers on the host: they wait for a GPU, or would copy numbers to it and wait for the copy."""
_SCATTERS = {"scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"}
_HOST = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}


def _waits(function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    name = function.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1])
    if name == "repeat_interleave":
        return named.get("output_size") is None
    if name in _SCATTERS:  # the exact ones copy strides from the host, but for one dimension and for a scalar
        return arguments[0].dim() > 1 and isinstance(arguments[3], torch.Tensor)
    return name in _READS


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not _waits(func, args, kwargs or {}), f"{func} would wait for a GPU"
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in _HOST, f"{func} would wait for a GPU"
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def nothing_waits() -> Iterator[None]:
    """Raise AssertionError at operations on the CPU that would wait for the device if their tensors were on a GPU.

    Backward passes are included. torch has its own check on GPUs (torch.cuda.set_sync_debug_mode). A FakeTensorMode
    with a device "cuda" would be nearer to it, but has no backward pass where there is no GPU.
    """
    with _Methods(), _Operators():
        yield

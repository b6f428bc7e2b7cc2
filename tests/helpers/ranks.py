"""Processes that run stages as torchrun would, forked from a server that has imported what all need."""

import contextlib
import importlib
import os
import signal
import socket
from pathlib import Path

import torch.multiprocessing
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from src.base.errors import Stopped
from src.metrics import caption_scores, meteor
from src.pipeline.source_code import code_digest
from src.training import distributed, engine
from src.training.optimizer import ExponentialMovingAverage
from src.training.task import Task
from tests.helpers.small_meteor import small_meteor, standing_tokenizer
from tests.helpers.warm_python import fork_stages

for _stage in ("preprocess", "split", "train", "predict"):
    code_digest(_stage)


def stop_after(step: int) -> None:
    """Have this process get SIGTERM in its `step`-th optimiser step."""
    update = ExponentialMovingAverage.update

    def updated(self, module, averaged):
        update(self, module, averaged)
        if averaged + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    ExponentialMovingAverage.update = updated


def count_exchanges(exchanges: list[int]) -> None:
    """Have DDP note the size of every bucket of gradients that it exchanges."""

    def wrapped(*arguments):
        module = distributed.wrap(*arguments)

        def hook(group, bucket):
            exchanges.append(bucket.buffer().numel())
            return allreduce_hook(group, bucket)

        module.register_comm_hook(None, hook)
        return module

    engine.wrap = wrapped


def hold_at_most(photos: int) -> None:
    """Let this process have a memory that holds so many photos of a training step."""
    forward = Task.forward

    def limited(self, images, mode="loss", **inputs):
        if mode in ("loss", "score") and len(images) > photos:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, images, mode, **inputs)

    Task.forward = limited


def _work(
    rank: int,
    count: int,
    port: int,
    folder: Path,
    stage: str,
    arguments: list[str],
    stop: int | None,
    photos: int | None,
) -> None:
    fork_stages()
    os.chdir(folder)
    if count > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    place = folder / f"meteor-{os.getpid()}"
    place.mkdir()
    meteor.shared_meteor = lambda *_: small_meteor(place)
    caption_scores._ptb = standing_tokenizer
    distributed._BUCKET = 1000  # gradients of tiny networks need several exchanges, too
    if stop and rank == count - 1:
        stop_after(stop)
    if photos and rank == count - 1:
        hold_at_most(photos)
    exchanges: list[int] = []
    if count > 1 and any(argument.startswith("train.accumulation_steps") for argument in arguments):
        count_exchanges(exchanges)
    with contextlib.suppress(Stopped) if stop else contextlib.nullcontext():
        importlib.import_module(f"src.{stage}").main(arguments)
    if exchanges and rank == 0:
        (folder / "exchanges.txt").write_text("\n".join(map(str, exchanges)))


def run(
    count: int,
    folder: Path,
    stage: str,
    arguments: list[str],
    stop: int | None = None,
    photos: int | None = None,
) -> None:
    """A stage in `count` processes.

    stop: the last of them gets SIGTERM in that step, and all stop cleanly. photos: its memory holds so many in a step.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _work, (count, port, folder, stage, arguments, stop, photos), nprocs=count, start_method="forkserver"
    )

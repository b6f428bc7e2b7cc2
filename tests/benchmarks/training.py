"""Epochs of the engine with its loader, against bare forward, backward and step on batches in memory."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch

from src.base.randomness import make_deterministic
from src.data.augment import Augmenter
from src.data.dataset import BatchDataset, epoch_batches, rank_slice
from src.data.labels import Labels
from src.data.loading import load_batches
from src.data.vocabulary import Vocabulary
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fold_data import FoldData
from src.training.fold_task import build_task
from src.training.infer import to_device
from src.training.interrupt import Interrupt

PHOTOS, WORDS, EPOCHS = 640, 200, 6


@dataclass(frozen=True)
class Compared:
    """Medians over the epochs after the first, in alternation."""

    ours: float
    """Seconds of an epoch of the engine."""
    bare: float
    """Of forward, backward and step on the same batches, there already."""
    waited: float
    """Share of the engine's time in which it waited for the loader."""
    flops: int
    """Of forward and backward of an epoch."""


def made_up(folder: Path, size: int, photos: int = PHOTOS) -> FoldData:
    """Photos of noise with random captions of 12 words."""
    rng = np.random.default_rng(0)
    np.save(folder / "pixels.npy", rng.integers(0, 256, (photos, size, size, 3), dtype=np.uint8))
    tokens = np.concatenate([np.append(rng.integers(4, WORDS, 12), 2) for _ in range(photos)]).astype(np.int32)
    starts, firsts = np.arange(photos + 1) * 13, np.arange(photos + 1)
    labels = Labels(folder / "pixels.npy", rng.normal(5, 1, photos).astype(np.float32), tokens, starts, firsts)
    words = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *(f"w{i}" for i in range(WORDS - 4))), (0,) * WORDS)
    rows = np.arange(photos)
    return FoldData(labels, labels, words, rows, rows[:1], [()], (0.5,) * 3, (0.25,) * 3)


def compare(settings: Settings, device: torch.device, photos: int = PHOTOS, epochs: int = EPOCHS) -> Compared:
    """Train on made-up photos by the engine, with run.workers, and by a bare loop on batches on the device."""
    from torch.utils.flop_counter import FlopCounterMode

    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder), settings.view.size, photos)
        plan = epoch_batches(data.train_rows, settings.train.batch_size, 0, 0)
        loaded = BatchDataset(data.labels, Augmenter(settings.augment, settings.view.size), 0, 1)
        shares = [rank_slice(rows, 0, 1, 0) for rows in plan]
        on_device = [to_device(loaded[share], device) for share in shares]
        ranks = Ranks(0, 1, device)
        engine, other = (Engine(build_task(settings, data, 0), settings, ranks) for _ in range(2))
        other.task.train()
        with FlopCounterMode(display=False) as counter:
            _bare(other, on_device)
        # one stream, as in `fit`: its processes start once
        stream = load_batches(
            loaded, chain.from_iterable(repeat(shares, epochs)), settings.run.workers, device.type == "cuda"
        )
        ours, bare, waited = [], [], []
        for epoch in range(epochs):
            began = time.perf_counter()
            engine.train_one_epoch(stream, epoch, 0, len(plan), Interrupt(), lambda _: None, shown=False)
            _finish(device)
            ours.append(time.perf_counter() - began)
            waited.append(engine.pace["waited"])
            bare.append(_bare(other, on_device))
    medians = (median(values[1:]) for values in (ours, bare, waited))
    return Compared(*medians, counter.get_total_flops())


def _bare(engine: Engine, batches: list[dict]) -> float:
    """Seconds of forward, backward and step on batches on the device."""
    _finish(engine.ranks.device)
    began = time.perf_counter()
    for batch in batches:
        with engine.autocast:
            out = engine.task(batch["images"], mos=batch["mos"], captions=batch["captions"])
        (out["losses"].sum(0) / out["counts"].sum(0)).sum().backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)
    _finish(engine.ranks.device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for one epoch of the demo's network on the CPU."""
    settings = Settings()
    make_deterministic(settings.run.threads)
    found = compare(settings, torch.device("cpu"))
    against = f"bare loop; the loader was waited for {found.waited:.1%} of the time"
    yield f"train {PHOTOS} photos, demo network, one epoch", found.ours, found.bare, against

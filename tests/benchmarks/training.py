"""An epoch of the engine with its loader, against bare forward, backward and step on batches in memory."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch

from src.base.randomness import make_deterministic
from src.data.augment import Augmenter
from src.data.dataset import BatchDataset, epoch_batches, rank_slice
from src.data.loading import load_batches
from src.data.vocabulary import Vocabulary
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fold_data import FoldData
from src.training.fold_task import build_task
from src.training.interrupt import Interrupt

ONE = Ranks(0, 1, torch.device("cpu"))
PHOTOS, WORDS = 640, 200


def made_up(folder: Path, size: int) -> FoldData:
    """640 photos of noise with random captions of 12 words."""
    from src.data.labels import Labels

    rng = np.random.default_rng(0)
    np.save(folder / "pixels.npy", rng.integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8))
    tokens = np.concatenate([np.append(rng.integers(4, WORDS, 12), 2) for _ in range(PHOTOS)]).astype(np.int32)
    starts, firsts = np.arange(PHOTOS + 1) * 13, np.arange(PHOTOS + 1)
    labels = Labels(folder / "pixels.npy", rng.normal(5, 1, PHOTOS).astype(np.float32), tokens, starts, firsts)
    words = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *(f"w{i}" for i in range(WORDS - 4))), (0,) * WORDS)
    rows = np.arange(PHOTOS)
    return FoldData(labels, labels, words, rows, rows[:1], [()], (0.5,) * 3, (0.25,) * 3)


def _bare(engine: Engine, batches: list[dict]) -> float:
    """Seconds of forward, backward and step on batches in memory."""
    began = time.perf_counter()
    for batch in batches:
        out = engine.task(batch["images"], mos=batch["mos"], captions=batch["captions"])
        (out["losses"].sum(0) / out["counts"].sum(0)).sum().backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for one epoch of the demo's network: medians of five epochs in alternation, after a warm-up."""
    settings = Settings()
    make_deterministic(settings.run.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder), settings.view.size)
        plan = epoch_batches(data.train_rows, settings.train.batch_size, 0, 0)
        loaded = BatchDataset(data.labels, Augmenter(settings.augment, settings.view.size), 0, 1)
        shares = [rank_slice(rows, 0, 1, 0) for rows in plan]
        memory = [loaded[share] for share in shares]
        engine, other = (Engine(build_task(settings, data, 0), settings, ONE) for _ in range(2))
        other.task.train()
        ours, bare, waited = [], [], []
        for epoch in range(6):
            stream = load_batches(loaded, shares, settings.run.workers, False)
            began = time.perf_counter()
            engine.train_one_epoch(stream, epoch, 0, len(plan), Interrupt(), lambda _: None, shown=False)
            ours.append(time.perf_counter() - began)
            waited.append(engine.pace["waited"])
            bare.append(_bare(other, memory))
    against = f"bare loop; the loader was waited for {median(waited[1:]):.1%} of the time"
    yield f"train {PHOTOS} photos, demo network, one epoch", median(ours[1:]), median(bare[1:]), against

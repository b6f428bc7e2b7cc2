"""An epoch of training from cached features, against one with the frozen encoder in the loop."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from src.base.randomness import make_deterministic
from src.data.dataset import BatchDataset, epoch_batches, rank_slice
from src.data.loading import load_batches
from src.settings.schema import AugmentSettings, EncoderSettings, Settings
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.feature_cache import frozen_encoder
from src.training.fold_data import FoldData
from src.training.fold_task import build_task
from src.training.interrupt import Interrupt
from tests.benchmarks.training import made_up


def _cache(settings: Settings, data: FoldData, folder: Path) -> None:
    encoder = frozen_encoder(settings, data.channel_mean, data.channel_std)
    pixels = np.load(data.labels.pixels)
    with torch.inference_mode():
        batches = [encoder(torch.from_numpy(pixels[i : i + 32])) for i in range(0, len(pixels), 32)]
    folder.mkdir()
    for name in ("grid", "pooled", "mask"):
        np.save(folder / f"{name}.npy", torch.cat([getattr(part, name) for part in batches]).numpy())


def _epoch(settings: Settings, data: FoldData) -> tuple[float, float]:
    """Seconds and caption loss of the second of two epochs."""
    engine = Engine(build_task(settings, data, 0), settings, Ranks(0, 1, torch.device("cpu")))
    plan = epoch_batches(data.train_rows, settings.train.batch_size, 0, 0)
    for epoch in range(2):
        stream = load_batches(
            BatchDataset(data.labels, None, 0, 1), [rank_slice(rows, 0, 1, 0) for rows in plan], 0, False
        )
        began = time.perf_counter()
        means = engine.train_one_epoch(stream, epoch, 0, len(plan), Interrupt(), lambda _: None, shown=False)
        seconds = time.perf_counter() - began
    return seconds, means["caption_loss"]


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for one epoch over 640 photos of 128 pixels with a ResNet-18."""
    plain = AugmentSettings(flip=0, crop=0)
    settings = Settings(encoder=EncoderSettings(name="resnet18", frozen=True), augment=plain)
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, epochs=2))
    make_deterministic(settings.run.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder), settings.view.size)
        other, looped = _epoch(settings, data)
        _cache(settings, data, Path(folder) / "features")
        cached_labels = dataclasses.replace(data.labels, features=Path(folder) / "features")
        ours, cached = _epoch(settings, dataclasses.replace(data, labels=cached_labels))
    against = f"frozen ResNet-18 in the loop; loss differs by {abs(looped - cached):.0e}"
    yield "one epoch from cached features, 640 photos of 128 px", ours, other, against

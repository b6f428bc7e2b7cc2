"""A frozen encoder's features of all photos, computed once and memory-mapped from then on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from src.base.errors import InputError
from src.base.files import read_json, write_json
from src.base.randomness import fold_in, seed_torch
from src.data.dataset import BatchDataset, BatchSlice, Labels, load_batches
from src.models.backbone import build_encoder
from src.models.encoder import Encoder
from src.models.features import Features
from src.pipeline import artefacts, outputs
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.metrics_log import progress

_BATCH = 32  # photos; fixed, so that a resumed computation gives the same bits
_SAVE_EVERY = 16  # batches between two flushes to the disk, from which a resumed computation goes on


def frozen_encoder(settings: Settings, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """The encoder that all folds share: where it has no weights, they are drawn from run.seed alone."""
    seed_torch(fold_in(settings.run.seed, "encoder"))
    channels_last = settings.train.channels_last
    return build_encoder(settings.encoder, len(mean), settings.view.size, mean, std, channels_last).eval()


def cached_features(settings: Settings, ranks: Ranks) -> Path | None:
    """The folder of the features that encoder.cache asks for, computed by rank 0 where it is absent.

    It holds grid.npy [N, R, D], pooled.npy [N, D] (float16 or float32), mask.npy (bool [N, R]) and for regions
    boxes.npy (float32 [N, R, 4]), in the order of the table of photos. Call it in every process.
    """
    if settings.encoder.cache == "none":
        return None

    def make() -> list[Path]:
        artefact = outputs.features(settings)
        with artefacts.making(artefact) as work:
            if work:
                work.outputs += _compute(settings, work.folder, ranks.device)
        return [artefact.folder]

    return ranks.shared_paths(make)[0]  # the other processes wait here


def _compute(settings: Settings, folder: Path, device: torch.device) -> list[str]:
    source = outputs.photos(settings).folder
    channels = read_json(source / "statistics.json")["channels"]
    encoder = frozen_encoder(settings, tuple(channels["mean"]), tuple(max(v, 1e-3) for v in channels["sd"])).to(device)
    count = len(np.load(source / "pixels.npy", mmap_mode="r"))
    saved = folder / "saved.json"
    done = read_json(saved)["photos"] if saved.is_file() else 0
    files: dict[str, np.memmap] = {}
    if done:
        files = {path.stem: np.load(path, mmap_mode="r+") for path in sorted(folder.glob("*.npy"))}
    with progress(count, done, "features", True) as bar:
        for index, (first, features) in enumerate(_batches(encoder, source / "pixels.npy", count, done, device)):
            arrays = _arrays(features, settings.encoder.cache)
            files = files or _create(folder, arrays, count)
            for name, values in arrays.items():
                files[name][first : first + len(values)] = values
            bar.update(len(features))
            if index % _SAVE_EVERY == _SAVE_EVERY - 1:
                _flush(files)
                write_json(saved, {"photos": first + len(features)})
    _flush(files)
    saved.unlink(missing_ok=True)
    return [f"{name}.npy" for name in sorted(files)]


@torch.inference_mode()
def _batches(
    encoder: Encoder, pixels: Path, count: int, done: int, device: torch.device
) -> Iterator[tuple[int, Features]]:
    """The features of all photos from row `done` on, a batch at a time, each with its first row."""
    empty = np.zeros(count + 1, np.int64)
    labels = Labels(pixels, np.full(count, np.nan, np.float32), empty[:0], empty[:1], empty)
    slices = [BatchSlice(-1, np.arange(row, min(row + _BATCH, count))) for row in range(done, count, _BATCH)]
    for batch in load_batches(BatchDataset(labels, None, 0, 1), slices, 0, False):
        yield int(batch["row"][0]), encoder(batch["images"].to(device))


def _arrays(features: Features, precision: str) -> dict[str, np.ndarray]:
    """Features as arrays. Raises InputError where a value is too large for the precision."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    arrays = {"grid": features.grid.to(dtype), "pooled": features.pooled.to(dtype), "mask": features.mask}
    if not (arrays["grid"].isfinite().all() and arrays["pooled"].isfinite().all()):
        raise InputError(
            f"encoder.cache={precision}: a feature is not finite in that precision; use encoder.cache=fp32"
        )
    if isinstance(features.layout, torch.Tensor):
        arrays["boxes"] = features.layout.float()
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def _create(folder: Path, arrays: dict[str, np.ndarray], count: int) -> dict[str, np.memmap]:
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, (count, *values.shape[1:]))
        for name, values in arrays.items()
    }


def _flush(files: dict[str, np.memmap]) -> None:
    for file in files.values():
        file.flush()

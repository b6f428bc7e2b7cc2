"""A frozen encoder's features of all photos, computed once and memory-mapped from then on."""

from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from src.base.errors import InputError
from src.base.files import naming, read_json, write_json
from src.base.machine import reserve_space, usable_cores
from src.base.randomness import fold_in, seed_torch
from src.base.worker_pool import thread_pool
from src.data.image import Unreadable, decode
from src.data.table import load_table
from src.data.view import at_own_aspect
from src.models.captioner import encoder_of
from src.models.encoder import CachedEncoder, Encoder, EncoderShape, views_of
from src.models.fine_tuning import LateStages
from src.models.levels import BlockWidths
from src.models.lora import learned_state
from src.pipeline import artefacts, outputs, resolved
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.distributed import Ranks
from src.training.metrics_log import progress

_BLOCK = 32  # photos that are read, and of which those of one size are computed together; fixed: a resumed computation
# gives the same bits
_SAVE_EVERY = 16  # blocks between two flushes to the disk, from which a resumed computation goes on
_SAVED = "saved.json"  # how many photos were computed
_SHAPE, _WEIGHTS, _BLOCKS = "encoder.json", "encoder.pt", "blocks.json"
_SAMPLE = 256  # photos whose late features are looked at before training
FOR_MOS = ("pooled", "levels", "maxima")
"""Cached features, by their files, from which MOS is predicted."""
_TOGETHER = {"cpu": 2, "cuda": 16}  # photos of one size in a batch: on a CPU larger ones do not fit into its caches


def frozen_encoder(
    settings: Settings, mean: tuple[float, ...], std: tuple[float, ...], for_mos_alone: bool = False
) -> Encoder:
    """The encoder that all folds share: where it has no weights, they are drawn from run.seed alone.

    Raises InputError where encoder.long_side asks for photos of several sizes, and it takes one. for_mos_alone: such an
    encoder sees the view of the photos instead.
    """
    seed_torch(fold_in(settings.run.seed, "encoder"))
    encoder = encoder_of(settings, len(mean), mean, std).eval()
    if settings.encoder.whole_photos and encoder.fixed_input_size and not for_mos_alone:
        raise InputError(
            f"encoder.name={settings.encoder.name} sees photos of one size only; give encoder.long_side=null"
        )
    return encoder


def ensemble_features(settings: Settings, name: str, ranks: Ranks) -> Path:
    """The folder of the features that a model of ensemble.encoders gives of the photos of these settings."""
    from src.models.encoders import named  # imports timm

    with named("ensemble.encoders"):
        folder = cached_features(outputs.encoder_settings(settings, name), ranks, for_mos_alone=True)
    assert folder is not None
    return folder


def cached_features(settings: Settings, ranks: Ranks, for_mos_alone: bool = False) -> Path | None:
    """The folder of the features that encoder.cache asks for, computed by rank 0 where it is absent.

    For V views of each photo, as it is and, with encoder.mirrored, its mirror image, it holds grid.npy [N, V, R, D],
    pooled.npy [N, V, D], with encoder.levels levels.npy [N, V, L] and, of blocks that are wider inside, maxima.npy
    [N, V, M], with encoder.fine_tuned stage.npy [N, V, h, w, C] (float16 or float32), mask.npy (bool [N, V, R]) and for
    regions boxes.npy (float32 [N, V, R, 4]), in the order of the table of photos. Beside them lie the encoder's shape
    and weights, so that nobody has to build it again (`cached_encoder`, `encoder_weights`). for_mos_alone: the files of
    FOR_MOS alone. blocks.json says which columns of levels and maxima belong to which block. Call it in every process.
    """
    if not settings.encoder.cached:
        return None

    def make() -> list[Path]:
        artefact = outputs.features(settings, for_mos_alone)
        with artefacts.making(artefact) as work:
            if work:
                work.outputs += _compute(settings, work.folder, ranks.device, for_mos_alone)
                work.notes += [_SAVED]
        return [artefact.folder]

    return ranks.shared_paths(make)[0]  # the other processes wait here


def keep_encoder(folder: Path, encoder: Encoder) -> list[str]:
    """Write the shape and the weights of an encoder beside its features; the names of the files."""
    write_json(folder / _SHAPE, asdict(EncoderShape.of(encoder)))
    checkpoint.save(folder / _WEIGHTS, learned_state(encoder))
    return [_SHAPE, _WEIGHTS]


def cached_encoder(folder: Path) -> CachedEncoder:
    """What stands for the encoder that `keep_encoder` wrote to the folder."""
    shape = read_json(folder / _SHAPE)
    return CachedEncoder(EncoderShape(**shape | {"layout": tuple(shape["layout"])}))


def encoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The `learned_state` of that encoder."""
    return checkpoint.load(folder / _WEIGHTS)


def feature_bytes(encoder: Encoder, settings: Settings) -> dict[str, int]:
    """Bytes that each file of `cached_features` takes for one photo; the encoder is that of `frozen_encoder`."""
    size = settings.view.size
    black = np.zeros((1, size, size, encoder.mean.shape[1]), np.uint8)
    features = _features(encoder, black, settings)
    return {f"{name}.npy": values.nbytes for name, values in features.items()}


def photo_features(encoder: Encoder, settings: Settings, path: Path, view: np.ndarray) -> dict[str, np.ndarray]:
    """A photo's features, by the names of the files of `cached_features`, each [V, ...].

    view: uint8 [H, W, C], which stands for a photo that cannot be read.
    """
    features = _features(encoder, _pixels(encoder, settings, path, view)[None], settings)
    return {name: values[0] for name, values in features.items()}


def _compute(settings: Settings, folder: Path, device: torch.device, for_mos_alone: bool = False) -> list[str]:
    source = outputs.photos(settings).folder
    channels = read_json(source / "statistics.json")["channels"]
    mean, std = tuple(channels["mean"]), tuple(max(value, 1e-3) for value in channels["sd"])
    encoder = frozen_encoder(settings, mean, std, for_mos_alone).to(device)
    if for_mos_alone and encoder.warning:
        print(encoder.warning.replace("encoder.name", "ensemble.encoders"), flush=True)
    views = np.load(source / "pixels.npy", mmap_mode="r")
    paths = [resolved.data_root(settings) / path for path in load_table(source / "photos.jsonl")["path"]]
    saved = folder / _SAVED
    done = read_json(saved)["photos"] if saved.is_file() else 0
    files: dict[str, np.memmap] = {}
    if done:
        files = {path.stem: np.load(path, mmap_mode="r+") for path in sorted(folder.glob("*.npy"))}
    threads = settings.run.threads
    workers = max(1, usable_cores() // threads) if device.type == "cpu" else 1
    with (
        progress(len(views), done, "features", True) as bar,
        thread_pool(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
    ):
        for block, first in enumerate(range(done, len(views), _BLOCK)):
            rows = list(range(first, min(first + _BLOCK, len(views))))
            photos = list(pool.map(lambda row: _pixels(encoder, settings, paths[row], views[row]), rows))
            parts = _parts(photos, _TOGETHER[device.type])
            batches = [np.stack([photos[place] for place in part]) for part in parts]
            computed = pool.map(lambda batch: _features(encoder, batch, settings), batches)
            for part, arrays in zip(parts, computed, strict=True):
                if for_mos_alone:
                    arrays = {name: arrays[name] for name in FOR_MOS if name in arrays}
                files = files or _create(folder, arrays, len(views))
                for name, values in arrays.items():
                    files[name][[rows[place] for place in part]] = values
            bar.update(len(rows))
            if block % _SAVE_EVERY == _SAVE_EVERY - 1:
                _flush(files)
                write_json(saved, {"photos": rows[-1] + 1})
    _flush(files)
    write_json(saved, {"photos": len(views)})
    write_json(folder / _BLOCKS, asdict(encoder.block_widths))
    names = [_BLOCKS, *(f"{name}.npy" for name in sorted(files))]
    return names if for_mos_alone else [*names, *keep_encoder(folder, encoder)]


def _pixels(encoder: Encoder, settings: Settings, path: Path, view: np.ndarray) -> np.ndarray:
    """What the encoder sees of a photo, uint8 [H, W, C]: its view, or with a long side the photo itself."""
    long_side = None if encoder.fixed_input_size else settings.encoder.whole_photos
    if long_side is None:
        return np.asarray(view)
    try:
        rgb = decode(path.read_bytes(), long_side, settings.data.maximum_megapixels)
        return at_own_aspect(rgb, long_side, settings.view)
    except (OSError, Unreadable):
        return np.asarray(view)  # black, as everywhere


def _parts(photos: list[np.ndarray], together: int) -> list[list[int]]:
    """The places of the photos, those of one size together, at most so many of them."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, photo in enumerate(photos):
        places.setdefault(photo.shape, []).append(place)
    return [alike[i : i + together] for alike in places.values() for i in range(0, len(alike), together)]


def _features(encoder: Encoder, photos: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """What `views_of` gives of photos, uint8 [B, H, W, C]. Raises InputError where the precision is too low for it."""
    precision = settings.encoder.cache
    dtype = torch.float16 if precision == "fp16" else torch.float32
    tensors = views_of(encoder, torch.from_numpy(photos).to(encoder.mean.device), settings.encoder.mirrored)
    kept = {name: tensors[name].to(dtype) for name in ("grid", *FOR_MOS, "stage") if name in tensors}
    if not all(tensor.isfinite().all() for tensor in kept.values()):
        raise InputError(
            f"encoder.cache={precision}: a feature is not finite in that precision; use encoder.cache=fp32"
        )
    return {name: tensor.cpu().numpy() for name, tensor in (tensors | kept).items()}


def _create(folder: Path, arrays: dict[str, np.ndarray], count: int) -> dict[str, np.memmap]:
    files = {}
    for name, values in arrays.items():
        path = folder / f"{name}.npy"
        with naming(path):
            files[name] = np.lib.format.open_memmap(path, "w+", values.dtype, (count, *values.shape[1:]))
            reserve_space(path)
    return files


def _flush(files: dict[str, np.memmap]) -> None:
    for file in files.values():
        file.flush()


def mos_features(folder: Path) -> np.ndarray:
    """The cached features that a network predicts MOS from, memory-mapped [N, V, D]: levels where there are such."""
    file = folder / "levels.npy"
    return np.load(file if file.is_file() else folder / "pooled.npy", mmap_mode="r")


def regressor_tables(folder: Path) -> list[tuple[np.ndarray, list[range]]]:
    """The cached features that regressors predict MOS from, memory-mapped [N, V, D], and the columns of each block.

    Of levels they are those of the means; then come any maxima. Pooled features are as one block. Raises InputError
    where an earlier version of this program wrote the features.
    """
    if not (folder / _BLOCKS).is_file():
        raise InputError(
            f"{folder}: made by an earlier version; python -m src.predict --fresh makes the features again"
        )
    features, maxima, widths = mos_features(folder), folder / "maxima.npy", BlockWidths(**read_json(folder / _BLOCKS))
    ends = accumulate(widths.levels)
    means = [range(end - width, end - width // 2) for width, end in zip(widths.levels, ends, strict=True)]
    tables = [(features, means or [range(features.shape[2])])]
    if maxima.is_file():
        ends = accumulate(widths.maxima)
        inside = [range(end - width, end) for width, end in zip(widths.maxima, ends, strict=True)]
        tables.append((np.load(maxima, mmap_mode="r"), inside))
    return tables


def feature_statistics(folder: Path, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, float32 [D], of the `mos_features` of the photos at `rows` in all their views."""
    features = mos_features(folder)
    total, squares = np.zeros((2, features.shape[2]))
    for part in np.array_split(np.sort(rows), -(-len(rows) // 1000)):
        values = features[part].reshape(-1, features.shape[2]).astype(np.float64)
        total += values.sum(0)
        squares += np.square(values).sum(0)
    mean = total / (len(rows) * features.shape[1])
    variance = squares / (len(rows) * features.shape[1]) - np.square(mean)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance.clip(0))).float()


@torch.inference_mode()
def late_statistics(late_stages: LateStages, folder: Path, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, float32 [D], of what late stages make, before training, of some photos at `rows`."""
    stage = np.load(folder / "stage.npy", mmap_mode="r")
    some = np.sort(rows)[:: -(-len(rows) // _SAMPLE)]
    late = torch.cat([late_stages(torch.from_numpy(stage[part, 0]).float()) for part in np.array_split(some, 16)])
    return late.mean(0), late.std(0)

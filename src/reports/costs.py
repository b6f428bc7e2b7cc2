"""What the parts of a run cost on this machine: small pieces of them, done and timed before the first long stage."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from src.base.machine import usable_cores
from src.base.worker_pool import thread_pool
from src.data.codebook import FEWEST
from src.data.table import load_table
from src.ensembling.kernel_machines import KERNEL_PHOTOS
from src.ensembling.tabular_regressors import boosting
from src.inference.fold_predictions import predict_fold
from src.pipeline import outputs
from src.pipeline.artefacts import outdated
from src.pipeline.budget import Costs, features_key
from src.pipeline.fold_jobs import jobs_of, shares_cores
from src.pipeline.resolved import data_root, folds_of
from src.settings.keys import flatten
from src.settings.load import changed
from src.settings.schema import Settings
from src.training.distributed import init_ranks
from src.training.feature_cache import frozen_encoder, keep_encoder, photo_features
from src.training.fit import Fit
from src.training.fold_data import FoldData, read_fold

_SEEN, _TRAINED, _VALIDATED = 6, 96, 64  # photos that the pieces are done with
_CODEBOOK, _CODES, _REGRESSORS, _CHOICE, _REPORTS = 10.0, 0.0154, 15.0, 0.00049, 0.006
"""Seconds on one calm core of the machine of docs/results.md: learning the codebook, a photo's codes, the regressors of
1,600 photos, of 3 folds and of all; on two cores: the choice by candidate and neighbour, reports by photo."""
_FURTHER = 0.45
"""Of these seconds of the regressors, those of one on another encoder's features: kernel ridge regression's."""
_BEYOND = 0.0045
"""Seconds there of a labelled photo beyond KERNEL_PHOTOS, up to which regressors take the square of the photos."""
_PIECE = 0.25
"""Seconds there for `_pace`."""


def measured_costs(settings: Settings, variants: Mapping[str, Settings], start: float) -> Costs:
    """The costs of a run with these settings. preprocess and split must have run.

    variants: settings of other features, by `features_key`. start: seconds that a process takes to start.
    """
    ranks, source = init_ranks(), outputs.photos(settings).folder
    table = load_table(source / "photos.jsonl")
    fold = folds_of(settings)[0]
    vocabulary, folds = outputs.vocabulary(settings).folder, outputs.folds(settings).folder
    data = read_fold(source, vocabulary, folds, fold, settings.vocabulary.maximum_words)
    rng = np.random.default_rng(settings.run.seed)
    with TemporaryDirectory() as folder, _silent():
        seen = rng.permutation(len(table))[:_SEEN].tolist()
        features, arrays, encoder = _features(settings, variants, table, seen, data, ranks.device)
        further = _further_encoders(settings, table, seen, data, ranks.device) * len(table)
        few = _few(data, settings, rng)
        if encoder:
            keep_encoder(Path(folder), encoder)
            rows = np.concatenate([few.train_rows, few.validation_rows])
            _keep(Path(folder), arrays, rows, len(table))
            few = dataclasses.replace(few, **{
                name: dataclasses.replace(getattr(few, name), features=Path(folder)) for name in ("labels", "targets")
            })  # fmt: skip
        network = _network(settings, few, fold, Path(folder, "fold"))
    rated = int(table["mos"].notna().sum())
    pace, codebook = _pace(), 0.0
    if settings.task != "caption" and rated >= FEWEST and outdated(outputs.codebook_features(settings)):
        codebook = _CODEBOOK + _CODES * len(table) / usable_cores()
    exact = min(rated, KERNEL_PHOTOS)
    machines = _REGRESSORS * (exact / 1600) ** 2 + _BEYOND * (rated - exact)
    machines *= (len(folds_of(settings)) + 1) / 4 if settings.task != "caption" else 0.0
    machines *= 1 + _FURTHER * len(settings.ensemble.encoders)
    gpus = torch.cuda.device_count()
    fitting = gpus or max(1, usable_cores() // settings.run.threads)  # more jobs than that gain nothing
    return Costs(
        photos=len(table),
        trained=len(data.labelled(settings.task)),
        validated=len(data.validation_rows),
        tested=int((table["part"] == "test").sum()),
        folds=settings.split.fold_count,
        jobs=min(jobs_of(settings, gpus), fitting),
        shares_cores=shares_cores(settings, gpus),
        gpu=ranks.device.type == "cuda",
        start=start,
        features=features,
        regressors=further + pace * (codebook + machines),
        choice=pace * _CHOICE * 2 / usable_cores(),
        rest=2 * start + pace * (5 + _REPORTS * len(table)),
        **network,
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _pace() -> float:
    """How many times as long as there a core takes here for what no network does."""
    rng = np.random.default_rng(0)
    features, mos = rng.normal(size=(400, 40)), rng.normal(size=400)
    boosting(features, mos, features[:10])  # starts the library's threads
    return _seconds(lambda: boosting(features, mos, features[:10])) / _PIECE


def _features(
    settings: Settings,
    variants: Mapping[str, Settings],
    table: Any,
    rows: Sequence[int],
    data: FoldData,
    device: torch.device,
) -> tuple[dict[str, float], list[dict[str, np.ndarray]], Any]:
    """Seconds of a photo by `features_key`, and features and encoder of the settings as they are.

    Each size is timed with the backbones as they are, and each choice of backbones at one size: the others follow.
    """
    if not settings.encoder.cached:
        return {}, [], None
    files, views = _files_and_views(settings, table, rows)
    encoder_name, encoder_size = _name_and_size(features_key(flatten(settings)))
    encoders: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for key, variant in variants.items():
        name, size = _name_and_size(key)
        if name != encoder_name and size != encoder_size:
            continue
        if name not in encoders:
            encoders[name] = frozen_encoder(variant, data.channel_mean, data.channel_std).to(device)
        seconds[key] = _encoded_photo(encoders[name], variant, files, views, device)
    base = f"{encoder_name} at {encoder_size}"
    for key in variants:
        name, size = _name_and_size(key)
        if key not in seconds:
            seconds[key] = seconds[f"{name} at {encoder_size}"] * seconds[f"{encoder_name} at {size}"] / seconds[base]
    seconds |= {key: 0.0 for key, variant in variants.items() if not outdated(outputs.features(variant))}
    arrays = [
        photo_features(encoders[encoder_name], settings, file, view)
        for file, view in zip(files[:2], views[:2], strict=True)
    ]
    return seconds, arrays, encoders[encoder_name]


def _further_encoders(
    settings: Settings, table: Any, rows: Sequence[int], data: FoldData, device: torch.device
) -> float:
    """Seconds of a photo by all models of ensemble.encoders whose features are not there yet."""
    seconds, (files, views) = 0.0, _files_and_views(settings, table, rows)
    for name in settings.ensemble.encoders if settings.task != "caption" else []:
        alone = outputs.encoder_settings(settings, name)
        if outdated(outputs.features(alone, for_mos_alone=True)):
            encoder = frozen_encoder(alone, data.channel_mean, data.channel_std, for_mos_alone=True).to(device)
            seconds += _encoded_photo(encoder, alone, files, views, device)
    return seconds


def _files_and_views(settings: Settings, table: Any, rows: Sequence[int]) -> tuple[list[Path], np.ndarray]:
    files = [data_root(settings) / table["path"].iloc[row] for row in rows]
    return files, np.load(outputs.photos(settings).folder / "pixels.npy", mmap_mode="r")[rows]


def _encoded_photo(
    encoder: Any, settings: Settings, files: Sequence[Path], views: np.ndarray, device: torch.device
) -> float:
    """Seconds of a photo where every core has some."""
    photo_features(encoder, settings, files[0], views[0])  # the first call is slow
    threads = settings.run.threads
    workers = max(1, usable_cores() // threads) if device.type == "cpu" else 1
    with thread_pool(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        encode = functools.partial(photo_features, encoder, settings)
        return _seconds(lambda: list(pool.map(encode, files, views))) / len(files)


def _name_and_size(key: str) -> tuple[str, str]:
    name, _, size = key.rpartition(" at ")
    return name, size


def _keep(folder: Path, arrays: Sequence[dict[str, np.ndarray]], rows: np.ndarray, count: int) -> None:
    """Files of features of `count` photos, of which those at `rows` get some of the arrays and others take no space."""
    for name, values in arrays[0].items():
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, (count, *values.shape))
        for place, row in enumerate(rows.tolist()):
            file[row] = arrays[place % len(arrays)][name]
        file.flush()


def _few(data: FoldData, settings: Settings, rng: np.random.Generator) -> FoldData:
    """Some photos of a fold, with labels of all tasks among those to train on."""
    labelled, mos = data.labelled(settings.task), data.labels.mos
    rated, captioned = data.labelled("mos"), data.labelled("caption")
    extremes = [rated[np.argmin(mos[rated])], rated[np.argmax(mos[rated])]] if len(rated) else []
    needed = [*extremes, *captioned[:1]]
    count = max(_TRAINED, 2 * settings.train.batch_size)
    train = np.unique([*needed, *rng.permutation(labelled)[:count]])
    places = np.sort(rng.permutation(len(data.validation_rows))[:_VALIDATED])
    references = [data.references[place] for place in places]
    return dataclasses.replace(
        data, train_rows=train, validation_rows=data.validation_rows[places], references=references
    )


def _few_epochs(settings: Settings) -> dict[str, Any]:
    """Settings for two epochs, the dearest that the run has, then two of self-critical training where it has any.

    What makes an epoch dearer, training the encoder and scheduled sampling, begins at once where the run comes to it.
    """
    rewarded = settings.self_critical.from_epoch is not None
    epochs = 4 if rewarded else 2
    begins = {
        "encoder.frozen_epochs": settings.encoder.frozen_epochs,
        "scheduled_sampling.from_epoch": settings.scheduled_sampling.from_epoch,
    }
    values = {key: 0 if first < settings.train.epochs else epochs for key, first in begins.items()}
    values |= {"train.epochs": epochs, "train.patience": 0}
    return values | {"self_critical.from_epoch": 2 if rewarded else None}


def _network(settings: Settings, data: FoldData, fold: int, folder: Path) -> dict[str, float]:
    """Seconds of a photo in training, validation and prediction, by the names of `Costs`."""
    words = [len(caption.split()) for captions in data.references for caption in captions]
    # an untrained captioner does not know when to end
    longest = max(
        settings.decoding.minimum_words, min(settings.decoding.maximum_words, round(np.mean(words or [10])) + 4)
    )
    short = {"decoding.maximum_words": longest, "train.start_from": None, "train.fold": fold, "tune.trials": 0}
    brief = changed(settings, _few_epochs(settings) | short, "the measurement")
    ranks = init_ranks()
    folder.mkdir()
    fit = Fit(brief, data, fold, folder, ranks)
    fit.run()
    timing = np.genfromtxt(folder / "timing.csv", delimiter=",", names=True)
    epoch, rewarded = timing[1], timing[3:]  # the first of a kind is slow
    validated = len(data.validation_rows)
    trained_photo = 1 / float(epoch["photos_per_second"])
    rewarded_photo = 1 / float(rewarded[0]["photos_per_second"]) if len(rewarded) else 0.0
    seconds = {"trained_photo": trained_photo, "rewarded_photo": rewarded_photo}
    left = float(epoch["seconds"]) - len(data.labelled(settings.task)) * trained_photo
    seconds["validated_photo"] = max(0.0, left) / validated

    def predicted(samples: int, rows: int = validated) -> float:
        values = {
            "predict.candidates": bool(samples),
            "predict.samples": max(1, samples),
            "ensemble.captions": "search",
        }
        part = dataclasses.replace(data, validation_rows=data.validation_rows[:rows])
        return predict_fold(folder, changed(brief, values, "the measurement"), part, [], ranks, "").seconds

    few = max(1, validated // 4)
    predicted(0, few)  # the first call is slow
    # each call opens the networks, which only the differences leave out
    least, alone, one, many = predicted(0, few), predicted(0), predicted(1), predicted(11)
    sample = max(0.0, many - one) / (10 * validated)
    return seconds | {
        "searched_photo": max(0.0, alone - least) / max(1, validated - few),
        "other_searches": max(0.0, (one - alone) / validated - sample),
        "sample": sample,
    }

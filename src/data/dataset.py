"""From the cached pixels and the table to batches of tensors, in an order that is a function of (seed, epoch)."""

import multiprocessing
import signal
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from src.base.randomness import fold_in
from src.data.augment import Augmenter
from src.data.vocabulary import PAD, Vocabulary


@dataclass(frozen=True)
class Labels:
    """The labels of N photos and where their inputs lie: arrays and paths only, which loader processes get cheaply.

    pixels: the file of all photos' views; crops: that of their other native crops, where there are some. features: the
    folder of their cached features, where these are read instead: arrays [N, V, ...] of V views of each photo.
    mos: float32 [N], NaN where unknown. tokens: int32, all captions one after another, each ending with <end>.
    Caption c is tokens[caption_offsets[c]:caption_offsets[c + 1]], and photo n has the captions photo_offsets[n] to
    photo_offsets[n + 1] - 1.
    """

    pixels: Path
    mos: np.ndarray
    tokens: np.ndarray
    caption_offsets: np.ndarray
    photo_offsets: np.ndarray
    features: Path | None = None
    crops: Path | None = None

    def captions(self, row: int) -> list[np.ndarray]:
        """All captions of a photo as token ids."""
        captions = range(self.photo_offsets[row], self.photo_offsets[row + 1])
        return [self.tokens[self.caption_offsets[c] : self.caption_offsets[c + 1]] for c in captions]


def encode_labels(table: pd.DataFrame, pixels: Path, vocabulary: Vocabulary, maximum_words: int) -> Labels:
    """The labels of the table of photos, captions encoded. `pixels`: the array of the same rows."""
    tokens, caption_offsets, photo_offsets = array("i"), array("q", [0]), array("q", [0])
    for captions in table["captions"]:
        for caption in captions:
            ids = vocabulary.encode(caption, maximum_words)
            if len(ids) > 1:  # a caption without a word has nothing to teach
                tokens.extend(ids)
                caption_offsets.append(len(tokens))
        photo_offsets.append(len(caption_offsets) - 1)
    crops = pixels.with_name("crops.npy")
    return Labels(
        pixels,
        table["mos"].to_numpy(np.float32),
        np.asarray(tokens, np.int32),
        np.asarray(caption_offsets, np.int64),
        np.asarray(photo_offsets, np.int64),
        crops=crops if crops.is_file() else None,
    )


@dataclass(frozen=True)
class BatchSlice:
    """The rows of a batch that one process loads. dummy: they replace an empty slice, and their labels are hidden.

    epoch < 0: photos as they are, without augmentation, and native crop or cached view number `crop`; a training epoch
    draws its crop, or whether it sees the mirrored photo.
    """

    epoch: int
    rows: np.ndarray
    dummy: bool = False
    crop: int = 0


def epoch_batches(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The shuffled rows of an epoch in batches, ceil(photos / batch_size) of them; the last one may be smaller.

    A step on a single photo is mostly noise: where one would be left over, batches are of nearly equal size, so that
    only batches of two still leave one.
    """
    order = np.random.default_rng(fold_in(seed, "order", epoch)).permutation(np.sort(rows))
    if len(order) % batch_size == 1 and len(order) > 1 and batch_size > 1:
        return np.array_split(order, len(order) // batch_size + 1)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def rank_slice(rows: np.ndarray, rank: int, ranks: int, epoch: int) -> BatchSlice:
    """A rank's slice of a batch, one of `ranks` of nearly equal size; a dummy where there are too few photos."""
    own_rows = np.array_split(rows, ranks)[rank]
    return BatchSlice(epoch, own_rows) if len(own_rows) else BatchSlice(epoch, rows[:1], dummy=True)


class BatchDataset(Dataset):
    """Loads whole batches: the item of a `BatchSlice` is a dict of tensors.

    row int64 [B], images uint8 [B, H, W, C] or a dict of features, mos float32 [B] (NaN: unknown) and captions int64
    [B, S, T], padded, a row of padding where a photo has fewer than S = captions_per_photo. Where uniforms_per_token is
    given, also uniforms float32 [B, S, uniforms_per_token * (T + 1)] in [0, 1), a function of (seed, epoch, photo).
    """

    def __init__(
        self,
        labels: Labels,
        augmenter: Augmenter | None,
        seed: int,
        captions_per_photo: int,
        uniforms_per_token: int = 0,
    ):
        self.labels = labels
        self.augmenter = augmenter
        self.seed = seed
        self.captions_per_photo = captions_per_photo
        self.uniforms_per_token = uniforms_per_token
        self._open: dict[str, np.ndarray] = {}  # files are opened in the process that reads, never sent to it

    def __getitem__(self, index: BatchSlice) -> dict[str, Any]:
        mos, captions = self.labels.mos[index.rows], self._captions(index)
        batch: dict[str, Any] = {
            "row": torch.from_numpy(np.asarray(index.rows, np.int64)),
            "images": self._features(index) if self.labels.features else torch.from_numpy(self._photos(index)),
            "mos": torch.from_numpy(np.full_like(mos, np.nan) if index.dummy else mos),
            "captions": torch.from_numpy(captions),
        }
        if self.uniforms_per_token:
            batch["uniforms"] = torch.from_numpy(self._uniforms(index, captions.shape[2]))
        return batch

    def _file(self, path: Path) -> np.ndarray:
        if path.stem not in self._open:
            self._open[path.stem] = np.load(path, mmap_mode="r")
        return self._open[path.stem]

    def _features(self, index: BatchSlice) -> dict[str, torch.Tensor]:
        assert self.labels.features is not None
        if not self._open:
            for path in sorted(self.labels.features.glob("*.npy")):
                self._file(path)
        views = np.full(len(index.rows), index.crop)
        if self.augmenter is not None and index.epoch >= 0:
            views = np.array([self.augmenter.flips(self.seed, index.epoch, row) for row in index.rows.tolist()], int)
        return {name: torch.from_numpy(features[index.rows, views]) for name, features in self._open.items()}

    def _photos(self, index: BatchSlice) -> np.ndarray:
        pixels = self._file(self.labels.pixels)
        photos = np.empty((len(index.rows), *pixels.shape[1:]), np.uint8)
        for i, row in enumerate(map(int, index.rows)):
            photo = pixels[row] if self.labels.crops is None else self._crop(self.labels.crops, row, index)
            if self.augmenter is not None and index.epoch >= 0:
                photo = self.augmenter(np.asarray(photo), self.seed, index.epoch, row)
            photos[i] = photo
        return photos

    def _crop(self, file: Path, row: int, index: BatchSlice) -> np.ndarray:
        crops = self._file(file)
        drawn = fold_in(self.seed, "crop", index.epoch, row) % (crops.shape[1] + 1)
        crop = drawn if index.epoch >= 0 else index.crop
        return crops[row, crop - 1] if crop else self._file(self.labels.pixels)[row]

    def _captions(self, index: BatchSlice) -> np.ndarray:
        photos = [[] if index.dummy else self._drawn_captions(int(row), index.epoch) for row in index.rows]
        longest = max((len(caption) for captions in photos for caption in captions), default=1)
        padded = np.full((len(photos), self.captions_per_photo, longest), PAD, np.int64)
        for i, captions in enumerate(photos):
            for j, caption in enumerate(captions):
                padded[i, j, : len(caption)] = caption
        return padded

    def _uniforms(self, index: BatchSlice, tokens: int) -> np.ndarray:
        """Numbers for each caption, of which a longer batch asks for more, but for no others."""
        out = np.empty((len(index.rows), self.captions_per_photo, self.uniforms_per_token * (tokens + 1)), np.float32)
        for i, row in enumerate(index.rows):
            for j, uniforms in enumerate(out[i]):
                seed = fold_in(self.seed, "uniforms", index.epoch, int(row), j)
                np.random.default_rng(seed).random(dtype=np.float32, out=uniforms)
        return out

    def _drawn_captions(self, row: int, epoch: int) -> list[np.ndarray]:
        captions = self.labels.captions(row)
        if len(captions) <= self.captions_per_photo:
            return captions
        generator = np.random.default_rng(fold_in(self.seed, "captions", epoch, row))
        return [captions[i] for i in generator.permutation(len(captions))[: self.captions_per_photo]]


def _leave_signals_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_batches(
    dataset: BatchDataset, slices: Iterable[BatchSlice], workers: int, pin: bool
) -> Iterator[dict[str, Any]]:
    """The batches of the slices, in order, prefetched by `workers` processes where there are any.

    Where the system has no way to start such processes, one line says so and this process loads.
    """
    if workers:
        # not fork: the threads of torch and of CUDA do not survive it
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        try:
            return iter(
                DataLoader(
                    dataset,
                    batch_size=None,
                    sampler=slices,
                    num_workers=workers,
                    pin_memory=pin,
                    multiprocessing_context=method,
                    prefetch_factor=4,
                    worker_init_fn=_leave_signals_to_the_main_process,
                )
            )
        except (ImportError, OSError, ValueError) as error:  # no semaphores, no start method
            print(f"run.workers={workers}: no worker process can be started ({error}); batches load in this process")
    return iter(DataLoader(dataset, batch_size=None, sampler=slices, pin_memory=pin))

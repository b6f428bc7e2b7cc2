"""From the cached pixels and the table to batches of tensors, in an order that is a function of (seed, epoch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from src.base.randomness import fold_in
from src.data.augment import Augmenter
from src.data.labels import Labels
from src.data.vocabulary import PAD

_FOR_REGRESSORS = {"maxima"}
"""Cached features that no network reads."""


def network_features(folder: Path) -> list[Path]:
    """The files of cached features that networks read."""
    return [path for path in sorted(folder.glob("*.npy")) if path.stem not in _FOR_REGRESSORS]


def cached_inputs(folder: Path, row: int) -> dict[str, torch.Tensor]:
    """The cached features of one photo as networks read them, each [1, ...]: of the photo as it is."""
    return {path.stem: torch.from_numpy(np.load(path, mmap_mode="r")[[row], 0]) for path in network_features(folder)}


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
            for path in network_features(self.labels.features):
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

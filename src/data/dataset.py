"""From the cached pixels and the table to batches of tensors, in an order that is a function of (seed, epoch)."""

import signal
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from src.base.randomness import fold_in
from src.data.augment import Augmenter
from src.data.vocabulary import PAD, Vocabulary


@dataclass(frozen=True)
class Labels:
    """What is known of each photo, as arrays only, which loader processes get cheaply.

    pixels: the file of all photos' pixels; crops: that of their other pieces, where there are some. features: the
    folder of their features, where these are read instead.
    mos: float32 [N], NaN where unknown. tokens: int32, all captions one after another, each ending with <end>;
    caption c is tokens[starts[c]:starts[c + 1]] and photo n has the captions firsts[n] to firsts[n + 1] - 1.
    """

    pixels: Path
    mos: np.ndarray
    tokens: np.ndarray
    starts: np.ndarray
    firsts: np.ndarray
    features: Path | None = None
    crops: Path | None = None

    def captions(self, row: int) -> list[np.ndarray]:
        """All captions of a photo as token ids."""
        first, last = self.firsts[row], self.firsts[row + 1]
        return [self.tokens[self.starts[c] : self.starts[c + 1]] for c in range(first, last)]


def encode_labels(table: pd.DataFrame, pixels: Path, vocabulary: Vocabulary, maximum_words: int) -> Labels:
    """The labels of the table of photos, captions encoded. `pixels`: the array of the same rows."""
    tokens, starts, firsts = array("i"), array("q", [0]), array("q", [0])
    for captions in table["captions"]:
        for caption in captions:
            ids = vocabulary.encode(caption, maximum_words)
            if len(ids) > 1:  # a caption without a word has nothing to teach
                tokens.extend(ids)
                starts.append(len(tokens))
        firsts.append(len(starts) - 1)
    crops = pixels.with_name("crops.npy")
    return Labels(
        pixels,
        table["mos"].to_numpy(np.float32),
        np.asarray(tokens, np.int32),
        np.asarray(starts, np.int64),
        np.asarray(firsts, np.int64),
        crops=crops if crops.is_file() else None,
    )


@dataclass(frozen=True)
class Share:
    """Photos that one process loads at a time. blank: their labels are hidden (they stand in for an empty share).

    crop: which piece of the photos is read where epoch < 0; each training epoch draws one.
    """

    epoch: int
    rows: np.ndarray
    blank: bool = False
    crop: int = 0


def steps_of_epoch(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The shuffled rows of an epoch in batches; the last one may be smaller, but never one photo alone.

    BatchNorm has no statistics of a single photo: where one would be left over, batches are of nearly equal size.
    """
    order = np.random.default_rng(fold_in(seed, "order", epoch)).permutation(np.sort(rows))
    if len(order) % batch_size == 1 and len(order) > 1 and batch_size > 1:
        return np.array_split(order, len(order) // batch_size + 1)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def share_of(rows: np.ndarray, part: int, parts: int, epoch: int) -> Share:
    """The `part`-th of `parts` nearly equal pieces of a batch; where there are too few photos, a blank stand-in."""
    piece = np.array_split(rows, parts)[part]
    return Share(epoch, piece) if len(piece) else Share(epoch, rows[:1], blank=True)


class BatchDataset(Dataset):
    """Loads the batch of a `Share`. epoch < 0 means: as it is, without augmentation.

    A batch is a dict of tensors: row int64 [B], images uint8 [B, H, W, C] or a dict of features, mos float32 [B]
    (NaN: unknown) and captions int64 [B, S, T], padded, a row of padding where a photo has fewer than S. Where
    uniforms_per_token is given, also uniforms float32 [B, S, uniforms_per_token * (T + 1)] in [0, 1), a function of
    (seed, epoch, photo).
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

    def __getitem__(self, share: Share) -> dict:
        mos = self.labels.mos[share.rows]
        batch = {
            "row": torch.from_numpy(np.asarray(share.rows, np.int64)),
            "images": self._features(share) if self.labels.features else torch.from_numpy(self._photos(share)),
            "mos": torch.from_numpy(np.full_like(mos, np.nan) if share.blank else mos),
            "captions": torch.from_numpy(self._captions(share)),
        }
        if self.uniforms_per_token:
            batch["uniforms"] = torch.from_numpy(self._uniforms(share, batch["captions"].shape[2]))
        return batch

    def _file(self, path: Path) -> np.ndarray:
        if path.stem not in self._open:
            self._open[path.stem] = np.load(path, mmap_mode="r")
        return self._open[path.stem]

    def _features(self, share: Share) -> dict[str, torch.Tensor]:
        if not self._open:
            for path in sorted(self.labels.features.glob("*.npy")):
                self._file(path)
        return {name: torch.from_numpy(array[share.rows]) for name, array in self._open.items()}

    def _photos(self, share: Share) -> np.ndarray:
        pixels = self._file(self.labels.pixels)
        photos = np.empty((len(share.rows), *pixels.shape[1:]), np.uint8)
        for i, row in enumerate(share.rows):
            photo = self._piece(int(row), share) if self.labels.crops else pixels[row]
            augment = self.augmenter is not None and share.epoch >= 0
            photos[i] = self.augmenter(np.asarray(photo), self.seed, share.epoch, int(row)) if augment else photo
        return photos

    def _piece(self, row: int, share: Share) -> np.ndarray:
        others = self._file(self.labels.crops)
        drawn = fold_in(self.seed, "crop", share.epoch, row) % (others.shape[1] + 1)
        crop = drawn if share.epoch >= 0 else share.crop
        return others[row, crop - 1] if crop else self._file(self.labels.pixels)[row]

    def _captions(self, share: Share) -> np.ndarray:
        chosen = [[] if share.blank else self._choose(int(row), share.epoch) for row in share.rows]
        longest = max((len(c) for captions in chosen for c in captions), default=1)
        out = np.full((len(chosen), self.captions_per_photo, longest), PAD, np.int64)
        for i, captions in enumerate(chosen):
            for j, caption in enumerate(captions):
                out[i, j, : len(caption)] = caption
        return out

    def _uniforms(self, share: Share, tokens: int) -> np.ndarray:
        """Each caption's own numbers, of which a longer batch asks for more, but for no others."""
        out = np.empty((len(share.rows), self.captions_per_photo, self.uniforms_per_token * (tokens + 1)), np.float32)
        for i, row in enumerate(share.rows):
            for j, numbers in enumerate(out[i]):
                seed = fold_in(self.seed, "uniforms", share.epoch, int(row), j)
                np.random.default_rng(seed).random(dtype=np.float32, out=numbers)
        return out

    def _choose(self, row: int, epoch: int) -> list[np.ndarray]:
        captions = self.labels.captions(row)
        if len(captions) <= self.captions_per_photo:
            return captions
        generator = np.random.default_rng(fold_in(self.seed, "captions", epoch, row))
        return [captions[i] for i in generator.permutation(len(captions))[: self.captions_per_photo]]


def _leave_signals_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def loader(
    batches: BatchDataset, shares: Iterable[Share], workers: int, pin: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of the shares, in order, prefetched by `workers` processes where there are any."""
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=shares,
            num_workers=workers,
            pin_memory=pin,
            multiprocessing_context="forkserver" if workers else None,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_main_process,
        )
    )

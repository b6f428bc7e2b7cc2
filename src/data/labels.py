"""The labels of all photos: MOS, and captions as token ids."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.vocabulary import END, Vocabulary


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


@dataclass(frozen=True)
class EncodedCaptions:
    """The captions of N photos as token ids; the arrays are those of `Labels`."""

    tokens: np.ndarray
    caption_offsets: np.ndarray
    photo_offsets: np.ndarray

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]], vocabulary: Vocabulary) -> "EncodedCaptions":
        """Encode the captions of each photo, of any length. A caption without a word has nothing to teach: left out."""
        tokens, caption_offsets, photo_offsets = array("i"), array("q", [0]), array("q", [0])
        for texts in captions:
            for caption in texts:
                ids = vocabulary.encode(caption)
                if len(ids) > 1:
                    tokens.extend(ids)
                    caption_offsets.append(len(tokens))
            photo_offsets.append(len(caption_offsets) - 1)
        return cls(
            np.asarray(tokens, np.int32), np.asarray(caption_offsets, np.int64), np.asarray(photo_offsets, np.int64)
        )

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, tokens=self.tokens, caption_offsets=self.caption_offsets, photo_offsets=self.photo_offsets)

    @classmethod
    def load(cls, path: Path) -> "EncodedCaptions":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["tokens"], arrays["caption_offsets"], arrays["photo_offsets"])

    def labels(self, mos: np.ndarray, pixels: Path, maximum_words: int) -> Labels:
        """The labels of these photos, with at most so many words of each caption. `pixels`: the array of the rows."""
        lengths = np.diff(self.caption_offsets)
        place = np.arange(len(self.tokens)) - np.repeat(self.caption_offsets[:-1], lengths)
        kept = (place < maximum_words) | (self.tokens == END)
        offsets = np.concatenate([[0], np.minimum(lengths, maximum_words + 1).cumsum()])
        crops = pixels.with_name("crops.npy")
        return Labels(
            pixels,
            mos.astype(np.float32),
            self.tokens[kept],
            offsets,
            self.photo_offsets,
            crops=crops if crops.is_file() else None,
        )

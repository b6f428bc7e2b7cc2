"""Captions of photos by the network of a fold, or of several: by the settings' search, and by others as candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from src.data.labels import Labels
from src.data.vocabulary import Vocabulary
from src.decoding.model_averaging import AveragedFeatures, ModelAverage
from src.decoding.strategy import CaptionSearch
from src.inference.networks import open_captioners
from src.models.captioner import Captioner
from src.models.decoder import PAD, CausalDecoder
from src.settings.model import NON_AUTOREGRESSIVE
from src.settings.schema import DecodingSettings, Settings
from src.training.distributed import Ranks, replicate
from src.training.infer import infer

SEARCH, GREEDY = "search", "greedy"
"""The names of the settings' own search and of greedy decoding among the sources of candidates."""
LENGTHS = 5
"""A non-autoregressive captioner writes a candidate for each of at least so many lengths."""


@dataclass(frozen=True)
class PhotoCaptions:
    """What a captioner writes of one photo."""

    caption: str
    """The best of the settings' own search; empty where that has no word, or was not asked for."""
    candidates: tuple[str, ...]
    """Of all searches, each with at least a word."""
    sources: tuple[str, ...]
    """The name of the search that each candidate comes from."""
    pooled: np.ndarray | None
    """The photo's pooled features, float32 [D]; None where features are cached, and these among them."""


def candidate_searches(settings: Settings) -> dict[str, DecodingSettings]:
    """The searches that write candidates, by name: greedy, the settings' own, diverse beam, and random samples.

    Non-autoregressive captioners have neither beam groups nor samples: they write one caption for each of the most
    probable lengths instead.
    """
    decoding = settings.decoding
    if settings.decoder.name in NON_AUTOREGRESSIVE:
        return {
            GREEDY: replace(decoding, passes=1, length_beam=1, ctc="greedy"),
            SEARCH: decoding,
            "lengths": replace(decoding, length_beam=max(LENGTHS, decoding.length_beam)),
        }
    return {
        GREEDY: replace(decoding, search="beam", beam=1),
        SEARCH: decoding,
        "diverse": replace(decoding, search="diverse", beam=2 * decoding.beam_groups),
        "sample": replace(decoding, search="sample", samples=settings.predict.samples),
    }


class CaptionGenerator(torch.nn.Module):
    """Captions of a batch by several searches, from features that are encoded once.

    Several networks write together by model averaging (`averaging`: decoding.model_averaging).
    """

    def __init__(
        self,
        networks: list[Captioner],
        searches: Sequence[CaptionSearch],
        seed: int,
        averaging: Literal["none", "probabilities", "log_probabilities"] = "none",
    ):
        super().__init__()
        self.networks: Sequence[Captioner] = torch.nn.ModuleList(networks)  # type: ignore[assignment]
        self.searches, self.seed, self.averaging = searches, seed, averaging

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens [B, K, T] of each search, best caption first, then the first encoder's pooled features [B, D].

        Tokens are padded to the longest caption allowed, so that the outputs of replicas can be concatenated.
        """
        first = self.networks[0]
        decoder: Any = first.decoder
        encoded = first.encoded(images)
        features: Any = first.with_levels(encoded)
        if self.averaging != "none" and len(self.networks) > 1:
            decoder = ModelAverage([cast(CausalDecoder, each.decoder) for each in self.networks], self.averaging)
            features = AveragedFeatures((features, *(network.features(images) for network in self.networks[1:])))
        outputs = []
        for search in self.searches:
            tokens = search(decoder, features, rows.tolist(), self.seed).tokens
            missing = search.constraints.maximum_words + 1 - tokens.shape[2]
            outputs.append(torch.nn.functional.pad(tokens, (0, missing), value=PAD))
        return (*outputs, encoded.pooled.float())


def generate_captions(
    folders: list[Path],
    settings: Settings,
    labels: Labels,
    rows: list[int],
    searches: Mapping[str, DecodingSettings],
    ranks: Ranks,
    label: str,
) -> dict[int, PhotoCaptions]:
    """What the best-caption.pt of `folders` write together of the photos at `rows`, by row, one search after another.

    `settings` must be those that they were trained with. Without `searches` photos are only encoded. Computed by all
    processes and complete on each.
    """
    networks, vocabulary = open_captioners(folders, settings, labels.features)
    generator = CaptionGenerator(
        networks,
        [CaptionSearch(decoding, vocabulary.words) for decoding in searches.values()],
        settings.run.seed,
        settings.decoding.model_averaging,
    )
    replicated = replicate(generator.to(ranks.device), settings, ranks)

    def read(batch: dict[str, torch.Tensor]) -> list[PhotoCaptions]:
        *tokens, pooled = (tensor.cpu() for tensor in replicated(batch["images"], batch["row"]))
        by_search = [dict(zip(searches, photo, strict=True)) for photo in zip(*tokens, strict=True)]
        kept = [None] * len(pooled) if settings.encoder.cached else pooled.numpy()
        return [
            _decoded(photo, features, vocabulary)
            for photo, features in zip(by_search or [{}] * len(pooled), kept, strict=True)
        ]

    return infer(read, labels, rows, settings, ranks, label)


def _decoded(tokens: dict[str, torch.Tensor], pooled: np.ndarray | None, vocabulary: Vocabulary) -> PhotoCaptions:
    """tokens: [K, T] of each search by name. pooled: [D]."""
    texts = {search: [vocabulary.decode(ids) for ids in captions.tolist()] for search, captions in tokens.items()}
    candidates = [(text, search) for search, written in texts.items() for text in written if text]
    return PhotoCaptions(
        texts[SEARCH][0] if SEARCH in texts else "",
        tuple(text for text, _ in candidates),
        tuple(search for _, search in candidates),
        pooled,
    )


def best_captions(
    folders: list[Path], settings: Settings, labels: Labels, rows: list[int], ranks: Ranks, label: str
) -> dict[int, str]:
    """The captions of the photos at `rows`, by row, by the settings' own search alone; arguments as above."""
    written = generate_captions(folders, settings, labels, rows, {SEARCH: settings.decoding}, ranks, label)
    return {row: photo.caption for row, photo in written.items()}

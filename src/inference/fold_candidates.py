"""Many captions of each photo from a fold's checkpoint, for a choice among them, and the features it saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from src.data.dataset import Labels
from src.data.vocabulary import Vocabulary
from src.decoding.strategy import CaptionSearch
from src.inference.fold_predictions import open_network
from src.models.captioner import Captioner
from src.models.decoder import PAD
from src.settings.model import NON_AUTOREGRESSIVE
from src.settings.schema import DecodingSettings, Settings
from src.training.distributed import Ranks, replicate
from src.training.infer import infer


@dataclass(frozen=True)
class PhotoCandidates:
    """What a fold's captioner proposes for one photo, search by search, and what it saw."""

    captions: tuple[str, ...]
    """None of them without a word."""
    log_probs: np.ndarray
    """Of each caption, <end> included, float32 [captions]."""
    sources: tuple[str, ...]
    """The name of the search that each comes from."""
    pooled: np.ndarray
    """The photo as one vector, float32 [D]."""


LENGTHS = 5
"""Lengths of which a non-autoregressive captioner proposes a caption each."""


def candidate_searches(settings: Settings, samples: int) -> dict[str, DecodingSettings]:
    """The usual searches by name: the most probable next word or first look, the settings' own, and several others.

    Those are a diverse beam of two captions a group and random captions; for non-autoregressive captioners, which have neither,
    the most probable lengths.
    """
    own = settings.decoding
    if settings.decoder.name in NON_AUTOREGRESSIVE:
        first = replace(own, passes=1, length_beam=1, ctc="greedy")
        return {"greedy": first, "search": own, "lengths": replace(own, length_beam=max(LENGTHS, own.length_beam))}
    return {
        "greedy": replace(own, search="beam", beam=1),
        "search": own,
        "diverse": replace(own, search="diverse", beam=2 * own.beam_groups),
        "sample": replace(own, search="sample", samples=samples),
    }


class CandidateGenerator(torch.nn.Module):
    """The candidates of each search for a batch, padded so that replicas fit together.

    Nothing here knows how a captioner writes: what `CaptionSearch` can search will do.
    """

    def __init__(self, network: Captioner, searches: Sequence[CaptionSearch], seed: int):
        super().__init__()
        self.network, self.searches, self.seed = network, searches, seed

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens [B, K, T] and log-probabilities [B, K] of each search, in turn, and the pooled features [B, D]."""
        features = self.network.features(images)
        out = []
        for search in self.searches:
            found = search(self.network.decoder, features, rows.tolist(), self.seed)
            room = search.constraints.maximum_words + 1 - found.tokens.shape[2]
            out += [torch.nn.functional.pad(found.tokens, (0, room), value=PAD), found.log_prob]
        return (*out, features.pooled.float())


def generate_candidates(
    folder: Path,
    settings: Settings,
    labels: Labels,
    rows: list[int],
    searches: Mapping[str, DecodingSettings],
    ranks: Ranks,
    label: str,
) -> dict[int, PhotoCandidates]:
    """The captions that the fold in `folder` (its best-caption.pt) proposes for the photos at `rows`, by row.

    `settings` must be those that it was trained with; `searches` say by name how captions are sought. Computed by all
    processes and complete on each.
    """
    network, portrait = open_network(folder / "best-caption.pt", settings)
    words = portrait["words"]
    chosen = [CaptionSearch(each, words) for each in searches.values()]
    proposer = replicate(CandidateGenerator(network, chosen, settings.run.seed).to(ranks.device), settings, ranks)
    vocabulary = Vocabulary(tuple(words), (0,) * len(words))
    names = list(searches)

    def read(batch: dict) -> list[PhotoCandidates]:
        *found, pooled = (tensor.cpu() for tensor in proposer(batch["images"], batch["row"]))
        return [_of_photo(found, names, pooled, photo, vocabulary) for photo in range(len(pooled))]

    return infer(read, labels, rows, settings, ranks, label)


def _of_photo(
    found: list[torch.Tensor], names: list[str], pooled: torch.Tensor, photo: int, vocabulary: Vocabulary
) -> PhotoCandidates:
    captions, log_probs, sources = [], [], []
    for name, tokens, scores in zip(names, found[::2], found[1::2], strict=True):
        for ids, score in zip(tokens[photo].tolist(), scores[photo].tolist(), strict=True):
            if text := vocabulary.decode(ids):
                captions.append(text)
                log_probs.append(score)
                sources.append(name)
    return PhotoCandidates(tuple(captions), np.array(log_probs, np.float32), tuple(sources), pooled[photo].numpy())

"""Where a captioner attends at each word that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from src.base.errors import InputError
from src.data.dataset import cached_inputs
from src.data.vocabulary import END, PAD, Vocabulary
from src.decoding.strategy import CaptionSearch
from src.inference.caption_candidates import CaptionGenerator
from src.inference.networks import open_captioners
from src.models.captioner import Captioner
from src.models.decoder import CausalDecoder, shift_right
from src.pipeline import outputs, runs
from src.settings.schema import Settings


@dataclass(frozen=True)
class AttentionMaps:
    """Attention `weights` float32 [T, N] over the photo's N parts at each of the T `words` of its caption.

    `layout`: (height, width) of the grid, row by row, or the boxes float32 [N, 4] of regions: x1, y1, x2, y2 as shares
    of the view's width and height. `parts`: what they are, in words.
    """

    words: tuple[str, ...]
    weights: np.ndarray
    layout: tuple[int, int] | np.ndarray
    parts: str


def attention_maps_of(
    network: Captioner,
    inputs: torch.Tensor | dict[str, torch.Tensor],
    tokens: torch.Tensor,
    vocabulary: Vocabulary,
    settings: Settings,
) -> AttentionMaps:
    """Where the network attends while it writes the tokens, int64 [1, T], of one photo.

    inputs: the photo as the network sees it, pixels or cached features. Raises InputError for a captioner that does not
    attend.
    """
    decoder, features = network.decoder, network.features(inputs)
    forced = decoder.teacher_forced(features, shift_right(tokens)) if isinstance(decoder, CausalDecoder) else None
    if forced is None or forced.attention is None:
        why = "writes all words at once" if forced is None else "does not attend to parts of the photo"
        raise InputError(
            f"decoder.name={settings.decoder.name} {why}, so there is no attention to draw; use a run with "
            "decoder.name=attention, updown or transformer"
        )
    written = [token for token in tokens[0].tolist() if token not in (PAD, END)]
    boxes = features.layout
    layout = boxes[0].float().cpu().numpy() if isinstance(boxes, torch.Tensor) else boxes
    pieces = [vocabulary.words[token] for token in written]
    words, weights = _whole_words(pieces, forced.attention[0, : len(pieces)].float().cpu().numpy())
    return AttentionMaps(words, weights, layout, network.encoder.region_kind)


def _whole_words(pieces: Sequence[str], weights: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Words of the pieces, of which "##" precedes those inside a word, and the means of their weights [T, N]."""
    if not pieces:
        return (), np.zeros((0, weights.shape[1]), np.float32)
    first = [place for place, piece in enumerate(pieces) if place == 0 or not piece.startswith("##")]
    parts = [slice(*ends) for ends in zip(first, [*first[1:], len(pieces)], strict=True)]
    words = tuple("".join(piece.removeprefix("##") for piece in pieces[part]) for part in parts)
    return words, np.array([weights[part].mean(axis=0) for part in parts], np.float32).reshape(len(parts), -1)


def attention_of_row(settings: Settings, fold: int, row: int) -> AttentionMaps:
    """The attention maps of a photo whose features are cached, by the fold's network; row: of the photos.

    Neither the encoder is built nor the photo read; float32, on the CPU. Raises InputError as `attention_maps_of` does.
    """
    folder = outputs.features(settings).folder
    (network,), vocabulary = open_captioners([runs.fold_folder(runs.run_folder(settings), fold)], settings, folder)
    search = CaptionSearch(settings.decoding, vocabulary.words)
    generator = CaptionGenerator([network], [search], settings.run.seed, settings.decoding.model_averaging)
    with torch.inference_mode():
        inputs = cached_inputs(folder, row)
        tokens = generator(inputs, torch.tensor([row]))[0][:, 0]
        return attention_maps_of(network, inputs, tokens, vocabulary, settings)

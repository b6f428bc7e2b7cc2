"""A Transformer that fills in hidden words, seeing those that are not hidden on both sides.

Ghazvininejad et al., "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", EMNLP 2019; for photos
Gao et al., "Masked Non-Autoregressive Image Captioning", 2019.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.models.attention import Cells
from src.models.decoder import END, PAD, NonAutoregressiveDecoder, random_mask, word_counts
from src.models.features import Features
from src.models.transformer import Network
from src.settings.model import NON_AUTOREGRESSIVE_WORDS
from src.settings.schema import DecoderSettings

_USUAL_WORDS = 10.0  # what the length is taken for before training
_NEAR = 8  # places to either side that are told apart by how far they are
_LEANING = 3.0  # what a head adds, before training, to the score of the one neighbour that it leans to


@dataclass(frozen=True)
class Seen:
    """`cells`: by layer. `length`: what the length's layer gives: [P, 1], or [P, ONE_SHOT_WORDS + 1]."""

    cells: tuple[Cells, ...]
    length: torch.Tensor


class MaskPredict(Network, NonAutoregressiveDecoder):
    """The words of a canvas see one another and the photo.

    Each head of each layer adds to a score what it has learned for the distance of the two places (Raffel et al., "T5",
    JMLR 2020); before training head 0 leans to the place before, head 1 to the one behind, head 2 to the one before
    that, and so on. Without it a hidden word takes long to find its neighbours, which a word-by-word captioner is fed.

    The number of words comes from the pooled features through one hidden layer: as a class (Ghazvininejad et al.), or
    as a number; then the lengths' probabilities are those of a Gaussian of unit variance about it, of which half the
    squared error is the negative log-likelihood. Captions of more than ONE_SHOT_WORDS words have no class.
    """

    uniforms_per_token = 1

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        symbols = vocabulary_size + (self.blank is not None)
        super().__init__(settings, symbols + 1, symbols, feature_width)
        self.mask = symbols
        self.near = nn.Parameter(torch.zeros(settings.layers, settings.heads, 2 * _NEAR + 1))
        for head in range(settings.heads):
            distance = (head // 2 % _NEAR + 1) * (-1, 1)[head % 2]
            self.near.data[:, head, _NEAR + distance] = _LEANING
        self.regression = settings.length == "regression"
        self.length = nn.Sequential(
            nn.Linear(feature_width, settings.hidden),
            nn.LayerNorm(settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, 1 if self.regression else NON_AUTOREGRESSIVE_WORDS + 1),
        )
        nn.init.zeros_(self.length[-1].weight)
        nn.init.constant_(self.length[-1].bias, _USUAL_WORDS if self.regression else 0.0)

    def encode(self, features: Features) -> Seen:
        return Seen(self.cells(features), self.length(features.pooled).float())

    def lengths(self, seen: Seen) -> torch.Tensor:
        scores = seen.length
        if self.regression:
            words = torch.arange(NON_AUTOREGRESSIVE_WORDS + 1, device=scores.device)
            scores = -0.5 * (words - scores).square()
        none = torch.arange(NON_AUTOREGRESSIVE_WORDS + 1, device=scores.device) == 0
        return scores.masked_fill(none, float("-inf")).log_softmax(dim=1)

    def length_loss(self, seen: Seen, words: torch.Tensor) -> torch.Tensor:
        """The squared error in words, or the cross entropy."""
        if self.regression:
            return (seen.length.squeeze(1) - words).square()
        return F.cross_entropy(seen.length[:, 1:], words.clamp(min=1) - 1, reduction="none")

    def places(self, words: torch.Tensor) -> torch.Tensor:
        return words

    def predict_masked(self, seen: Seen, canvas: torch.Tensor) -> torch.Tensor:
        within = canvas != PAD
        within[:, :1] = True  # an empty canvas must not divide by nothing
        words, place = self.embed(canvas, 0), torch.arange(canvas.shape[1], device=canvas.device)
        distance = (place - place.unsqueeze(1)).clamp(-_NEAR, _NEAR) + _NEAR
        apart = torch.where(within, 0.0, float("-inf"))[:, None, None]
        for layer, near, cells in zip(self.layers, self.near[:, :, distance], seen.cells, strict=True):
            words, _, _ = layer(words, None, cells, near + apart)
        return self._log_probs(self.output(self.last(words)).float())

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=-1)

    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All words, a uniform number of them hidden, at least one."""
        canvas = captions.masked_fill(captions == END, PAD)
        return canvas, random_mask(word_counts(captions), canvas.shape[1], uniforms)

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Of a caption written in one pass, all its words hidden; at END stands the length's log-probability."""
        seen, words = self.encode(features), word_counts(captions)
        said = self.predict_masked(seen, torch.where((captions != PAD) & (captions != END), self.mask, PAD))
        own = said.gather(2, captions.unsqueeze(2)).squeeze(2)
        length = self.lengths(seen).gather(1, words.unsqueeze(1))
        return torch.where(captions == END, length, own).masked_fill(captions == PAD, 0.0)

"""A conditional masked language model (CMLM) of captions: a bidirectional Transformer that predicts masked words.

Ghazvininejad et al., "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", EMNLP 2019; for photos
Gao et al., "Masked Non-Autoregressive Image Captioning", 2019.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.models.attention import AttentionMemory
from src.models.decoder import END, PAD, NonAutoregressiveDecoder, random_mask, word_counts
from src.models.features import Features
from src.models.transformer import TransformerStack
from src.settings.model import NON_AUTOREGRESSIVE_WORDS
from src.settings.schema import DecoderSettings

_INITIAL_WORDS = 10.0  # the predicted length before training
_MAX_DISTANCE = 8  # positions farther apart share the bias of this distance
_INITIAL_BIAS = 3.0  # before training, each head's bias for the one neighbour that it prefers


@dataclass(frozen=True)
class EncodedPhotos:
    """`memory`: by layer. `length`: the output of the length predictor, [P, 1] or [P, NON_AUTOREGRESSIVE_WORDS + 1]."""

    memory: tuple[AttentionMemory, ...]
    length: torch.Tensor


class MaskPredict(TransformerStack, NonAutoregressiveDecoder):
    """The target sequence is the caption's words, which attend to one another and to the photo.

    Each head of each layer has a relative position bias (Raffel et al., "T5", JMLR 2020). Before training head 0
    prefers the word before, head 1 the word after, head 2 the word two before, and so on: without that a masked
    position takes long to learn to look at its neighbours.

    The number of words is predicted from the pooled features by one hidden layer, either as a class (Ghazvininejad et
    al.) or by regression: then the length is Gaussian with unit variance, whose negative log-likelihood is half the
    squared error. No caption has more than NON_AUTOREGRESSIVE_WORDS words.
    """

    uniforms_per_token = 1

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        outputs = vocabulary_size + (self.blank is not None)
        super().__init__(settings, outputs + 1, outputs, feature_width)
        self.mask = outputs
        self.relative_bias = nn.Parameter(torch.zeros(settings.layers, settings.heads, 2 * _MAX_DISTANCE + 1))
        for head in range(settings.heads):
            distance = (head // 2 % _MAX_DISTANCE + 1) * (-1, 1)[head % 2]
            self.relative_bias.data[:, head, _MAX_DISTANCE + distance] = _INITIAL_BIAS
        self.regression = settings.length == "regression"
        hidden = [nn.Linear(feature_width, settings.hidden), nn.LayerNorm(settings.hidden), nn.GELU()]
        output = nn.Linear(settings.hidden, 1 if self.regression else NON_AUTOREGRESSIVE_WORDS + 1)
        nn.init.zeros_(output.weight)
        nn.init.constant_(output.bias, _INITIAL_WORDS if self.regression else 0.0)
        self.length = nn.Sequential(*hidden, nn.Dropout(settings.dropout), output)

    def encode(self, features: Features) -> EncodedPhotos:
        return EncodedPhotos(self.memory(features), self.length(features.pooled).float())

    def length_log_probs(self, encoded: EncodedPhotos) -> torch.Tensor:
        words = torch.arange(NON_AUTOREGRESSIVE_WORDS + 1, device=encoded.length.device)
        scores = -0.5 * (words - encoded.length).square() if self.regression else encoded.length
        return scores.masked_fill(words == 0, float("-inf")).log_softmax(dim=1)

    def length_loss(self, encoded: EncodedPhotos, words: torch.Tensor) -> torch.Tensor:
        """The squared error in words, or the cross entropy."""
        if self.regression:
            return (encoded.length.squeeze(1) - words).square()
        return F.cross_entropy(encoded.length[:, 1:], words.clamp(min=1) - 1, reduction="none")

    def target_length(self, words: torch.Tensor) -> torch.Tensor:
        return words

    def predict_masked(self, encoded: EncodedPhotos, targets: torch.Tensor) -> torch.Tensor:
        attended = targets != PAD
        attended[:, :1] = True  # a softmax over no position at all would be NaN
        words, position = self.embed(targets, 0), torch.arange(targets.shape[1], device=targets.device)
        distance = (position - position.unsqueeze(1)).clamp(-_MAX_DISTANCE, _MAX_DISTANCE) + _MAX_DISTANCE
        padding = torch.where(attended, 0.0, float("-inf"))[:, None, None]
        for layer, bias, memory in zip(self.layers, self.relative_bias[:, :, distance], encoded.memory, strict=True):
            words = layer.bidirectional(words, memory, bias + padding)
        return self._log_probs(self.logits(words).float())

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=-1)

    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The words, of which a uniform number, at least one, is masked."""
        targets = captions.masked_fill(captions == END, PAD)
        return targets, random_mask(word_counts(captions), targets.shape[1], uniforms)

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """The words' log-probabilities in a single pass over masks only; at END, that of the length."""
        encoded, words = self.encode(features), word_counts(captions)
        masks = torch.where((captions != PAD) & (captions != END), self.mask, PAD)
        log_probs = self.predict_masked(encoded, masks).gather(2, captions.unsqueeze(2)).squeeze(2)
        length = self.length_log_probs(encoded).gather(1, words.unsqueeze(1))
        return torch.where(captions == END, length, log_probs).masked_fill(captions == PAD, 0.0)

"""A Transformer decoder with cross-attention to the cells of the photo.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with pre-layer normalisation (Xiong et al., "On Layer
Normalization in the Transformer Architecture", ICML 2020) and GELU.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from src.base.errors import InputError
from src.models.attention import AttentionMemory, masked_softmax
from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings

KeyValueCache = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of the words so far in one layer: [N, heads, t, H / heads] each."""

_BOX_WIDTH = 32  # dimensions of the positional encoding of each coordinate of a box
_TOGETHER = 16  # captions: fewer have less padding and more overhead
_BOX_SCALE = 32  # the shortest wavelength is then a fifth of the photo


@dataclass(frozen=True)
class TransformerState:
    """`cache` and `memory`: by layer. `attention`: the last layer's, mean over heads; zero before the first step."""

    cache: tuple[KeyValueCache, ...]
    memory: tuple[AttentionMemory, ...]
    attention: torch.Tensor


class CachedDecoder(CausalDecoder):
    """A causal decoder of layers that keep the keys and values of the words so far, and of the photo.

    `attends`: to the photo's cells; where it does not, the attention in its state stays zero.
    """

    attends: bool = True

    @abstractmethod
    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        """Keys and values of the photos in each layer."""

    @abstractmethod
    def run(
        self, tokens: torch.Tensor, state: TransformerState
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[KeyValueCache, ...]]:
        """Tokens [N, T] through all layers, where T is 1 unless the caches are empty.

        Returns the words [N, T, H], the last layer's attention [N, T, regions], and the caches with these words.
        """

    @abstractmethod
    def logits(self, words: torch.Tensor) -> torch.Tensor:
        """The output layer [..., V] on what `run` returns of words [..., H]."""

    def teacher_forced(
        self,
        features: Features,
        inputs: torch.Tensor,
        photo: torch.Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> TeacherForced:
        if photo is None or batch_sizes is None:
            words, weights, _ = self.run(inputs, self.start_each(features, len(inputs), photo))
        else:
            words, weights = self._run_by_length(inputs, self.start(features), photo, batch_sizes)
        return TeacherForced(words, self.logits, weights if self.attends else None)

    def _run_by_length(
        self, inputs: torch.Tensor, state: TransformerState, photo: torch.Tensor, batch_sizes: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `run`, for captions of about one length together, so that little padding is computed."""
        parts = []
        for first in range(0, len(inputs), _TOGETHER):
            rows = slice(first, first + _TOGETHER)
            length = sum(size > first for size in batch_sizes)  # of the part's longest
            words, weights, _ = self.run(inputs[rows, :length], self.reorder(state, photo[rows]))
            padding = (0, 0, 0, len(batch_sizes) - length)
            parts.append((F.pad(words, padding), F.pad(weights, padding)))
        words, weights = (torch.cat(part) for part in zip(*parts, strict=True))
        return words, weights

    def start(self, features: Features) -> TransformerState:
        memory = self.memory(features)
        empty = tuple((each.keys[:, :, :0], each.values[:, :, :0]) for each in memory)
        return TransformerState(empty, memory, torch.zeros_like(features.mask, dtype=torch.float32))

    def step(self, tokens: torch.Tensor, state: TransformerState) -> tuple[torch.Tensor, TransformerState]:
        words, weights, cache = self.run(tokens.unsqueeze(1), state)
        log_probs = F.log_softmax(self.logits(words.squeeze(1)).float(), dim=-1)
        return log_probs, TransformerState(cache, state.memory, weights.squeeze(1))

    def reorder(self, state: TransformerState, index: torch.Tensor, balanced: bool = False) -> TransformerState:
        cache = tuple((keys.index_select(0, index), values.index_select(0, index)) for keys, values in state.cache)
        memory = state.memory
        if not balanced:
            memory = tuple(each.reorder(index, len(state.attention)) for each in memory)
        return TransformerState(cache, memory, state.attention.index_select(0, index))


class TransformerLayer(nn.Module):
    """Self-attention over the words, cross-attention to the photo, feed-forward net; each on its normalised input."""

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.self_qkv = nn.Linear(hidden, 3 * hidden)
        self.self_output = nn.Linear(hidden, hidden)
        self.cross_query = nn.Linear(hidden, hidden)
        self.cross_key_value = nn.Linear(hidden, 2 * hidden)
        self.cross_output = nn.Linear(hidden, hidden)
        self.feedforward = nn.Sequential(nn.Linear(hidden, feedforward), nn.GELU(), nn.Linear(feedforward, hidden))
        self.dropout = nn.Dropout(dropout)

    def memory(self, image: torch.Tensor, mask: torch.Tensor) -> AttentionMemory:
        """Cross-attention keys and values [P, heads, R, H / heads] of the cells `image` [P, R, H]."""
        keys, values = (self._split(part).contiguous() for part in self.cross_key_value(image).chunk(2, dim=-1))
        return AttentionMemory(keys, values, mask)

    def causal(
        self, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory
    ) -> tuple[torch.Tensor, torch.Tensor, KeyValueCache]:
        """`words` [N, T, H] after those in `cache`, where T is 1 unless the cache is empty.

        Returns the words [N, T, H], the cross-attention weights [N, T, R], and the cache with these words.
        """
        query, keys, values = self._query_key_value(words)
        keys, values = torch.cat([cache[0], keys], dim=2), torch.cat([cache[1], values], dim=2)
        attended = F.scaled_dot_product_attention(query, keys, values, is_causal=not cache[0].shape[2])
        return *self._after_self_attention(words, attended, memory), (keys, values)

    def bidirectional(self, words: torch.Tensor, memory: AttentionMemory, bias: torch.Tensor) -> torch.Tensor:
        """`words` [N, T, H] that attend to one another; `bias` [N, heads, T, T] is added to the scores."""
        query, keys, values = self._query_key_value(words)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype))
        return self._after_self_attention(words, attended, memory)[0]

    def _query_key_value(self, words: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._split(part) for part in self.self_qkv(self.norms[0](words)).chunk(3, dim=-1))

    def _after_self_attention(
        self, words: torch.Tensor, attended: torch.Tensor, memory: AttentionMemory
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rest of the layer: the words [N, T, H] and the cross-attention weights [N, T, R], mean over heads."""
        words = words + self.dropout(self.self_output(attended.transpose(1, 2).flatten(2)))
        context, weights = self._cross_attention(self.norms[1](words), memory)
        words = words + self.dropout(context)
        return words + self.dropout(self.feedforward(self.norms[2](words))), weights

    def _cross_attention(self, words: torch.Tensor, memory: AttentionMemory) -> tuple[torch.Tensor, torch.Tensor]:
        """The words of all captions of a photo are queries to its one memory."""
        rows, length, _ = words.shape
        query = self._split(self.cross_query(words).view(len(memory), -1, words.shape[2]))
        scores = query @ memory.keys.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = masked_softmax(scores, memory.mask[:, None, None])
        context = (weights.to(memory.values.dtype) @ memory.values).transpose(1, 2).reshape(rows, length, -1)
        return self.cross_output(context), weights.mean(dim=1).view(rows, length, -1)

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, T, H] to [N, heads, T, H / heads]."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class TransformerStack(nn.Module):
    """Token embeddings with sinusoidal positions, `layers` layers and a last norm.

    The photo's cells are a linear layer and norm of its features plus a linear layer of their boxes. Dropout is applied
    to embeddings, to what each part of a layer adds, and before the output layer, whose weights are not tied to the
    embedding. The context of a photo without cells is zero. Raises InputError where `hidden` is no multiple of `heads`.
    """

    def __init__(self, settings: DecoderSettings, inputs: int, outputs: int, feature_width: int):
        super().__init__()
        hidden, heads = settings.hidden, settings.heads
        if hidden % heads:
            raise InputError(f"decoder.hidden={hidden} is no multiple of decoder.heads={heads}; change one of them")
        self.embedding = nn.Embedding(inputs, hidden, padding_idx=PAD)
        self.image = nn.Linear(feature_width, hidden)
        self.image_norm = nn.LayerNorm(hidden)
        self.box = nn.Linear(4 * _BOX_WIDTH, hidden)
        arguments = hidden, heads, settings.feedforward, settings.dropout
        layers = nn.ModuleList(TransformerLayer(*arguments) for _ in range(settings.layers))
        self.layers = cast(Sequence[TransformerLayer], layers)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(hidden, outputs)
        self._initialise(hidden)

    def _initialise(self, hidden: int) -> None:
        """Glorot for linear layers, zero biases; embeddings of the same magnitude as the positional encoding."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(hidden))
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(hidden))
        nn.init.zeros_(self.embedding.weight.data[PAD])

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        """Cross-attention keys and values of each layer."""
        positions = sinusoids(_BOX_SCALE * boxes(features), _BOX_WIDTH).flatten(2)
        image = self.image_norm(features.projected(self.image)) + self.box(positions)
        return tuple(layer.memory(image, features.mask) for layer in self.layers)

    def embed(self, tokens: torch.Tensor, first: int) -> torch.Tensor:
        """Embeddings [N, T, H] of tokens [N, T] at the positions from `first` on."""
        width = self.embedding.embedding_dim
        positions = sinusoids(torch.arange(first, first + tokens.shape[1], device=tokens.device), width)
        return self.dropout(self.embedding(tokens) * math.sqrt(width) + positions)

    def logits(self, words: torch.Tensor) -> torch.Tensor:
        """The output layer [..., V] on the last layer's words [..., H]."""
        return self.output(self.dropout(self.norm(words)))


class Transformer(TransformerStack, CachedDecoder):
    """The autoregressive Transformer decoder."""

    reads_pooled = False

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, vocabulary_size, feature_width)

    def run(
        self, tokens: torch.Tensor, state: TransformerState
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[KeyValueCache, ...]]:
        words, weights, caches = self.embed(tokens, state.cache[0][0].shape[2]), state.attention, []
        for layer, cache, memory in zip(self.layers, state.cache, state.memory, strict=True):
            words, weights, cache = layer.causal(words, cache, memory)
            caches.append(cache)
        return words, weights, tuple(caches)


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines [..., width] of positions [...], in wavelengths from 2π to 2π * 10000 (Vaswani et al., 3.5)."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width]


def boxes(features: Features) -> torch.Tensor:
    """Corners (x1, y1, x2, y2) of cells or regions as fractions of the photo's width and height: [B or 1, R, 4].

    A layout of boxes must be on that scale already.
    """
    if isinstance(features.layout, torch.Tensor):
        return features.layout
    height, width = features.layout
    top = (torch.arange(height, device=features.device) / height).view(-1, 1).expand(height, width)
    left = (torch.arange(width, device=features.device) / width).expand(height, width)
    return torch.stack([left, top, left + 1 / width, top + 1 / height], dim=-1).view(1, -1, 4)

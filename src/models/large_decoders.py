"""What the text parts of published captioners share as causal decoders.

Their layers, weights and arithmetic are those of transformers. Only the attention is written anew, so that all captions
of a photo share one copy of its keys and values, which are most of the memory that a captioner of 577 cells needs.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from src.base.hub_models import token_order
from src.models.attention import AttentionMemory
from src.models.decoder import END
from src.models.features import Features
from src.models.transformer import CachedDecoder, KeyValueCache, TransformerState

_AS_GOOD_AS_NEVER = 30.0
"""How much the logit of PAD, START or UNK is lowered where the model has one token for it and END, or another of them:
that token counts once, and no probability changes in float32."""


class LargeDecoder(CachedDecoder):
    """A decoder made of the text part of a published captioner, with our ids of its tokens.

    The photo's tokens are its class token, which is `pooled` of the features, and the cells of their grid; none of them
    is masked. special: its ids of PAD, START, END and UNK. size: of its vocabulary.
    """

    layers: Sequence[Any]
    heads: int
    positions: int
    """Tokens of the longest caption that it has learned places for, START among them."""
    published_ids: torch.Tensor
    """Of our tokens, in the published vocabulary."""
    offset: torch.Tensor
    checkpointed: bool = False
    """Whether activations inside the layers are computed again in the backward pass."""

    def __init__(self, special: Sequence[int], size: int):
        super().__init__()
        order, offset = token_order(special, size), torch.zeros(size + len(special) - len(set(special)))
        for place, token in enumerate(special):
            if place != END and token in (special[END], *special[:place]):
                offset[place] = -_AS_GOOD_AS_NEVER
        self.register_buffer("published_ids", torch.tensor(order), persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    @abstractmethod
    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Embeddings [N, T, H] of the model's own tokens [N, T] at `places` [T]."""

    @abstractmethod
    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        """Words [N, T, H] through one layer: words, attention [N, T, tokens of the photo] if `weigh`, and the cache."""

    @abstractmethod
    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        """The output layer [..., V] of the last layer's words, in the order of the model's own tokens."""

    def logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.own_logits(words).index_select(-1, self.published_ids) + self.offset

    def run(
        self, tokens: torch.Tensor, state: TransformerState
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[KeyValueCache, ...]]:
        first = state.cache[0][0].shape[2]
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        words = self.embed(self.published_ids[tokens], places)
        weights, caches = None, []
        for layer, cache, memory in zip(self.layers, state.cache, state.memory, strict=True):
            arguments = layer, words, cache, memory, layer is self.layers[-1]
            if self.checkpointed and torch.is_grad_enabled():
                words, weights, cache = checkpoint(self.layer, *arguments, use_reentrant=False)
            else:
                words, weights, cache = self.layer(*arguments)
            caches.append(cache)
        if not self.attends:
            return words, state.attention.unsqueeze(1).expand(-1, tokens.shape[1], -1), tuple(caches)
        assert weights is not None
        cells = weights[..., 1:]  # the first token is the class token
        return words, cells / cells.sum(-1, keepdim=True).clamp(min=1e-12), tuple(caches)

    def split(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, T, H] to [N, heads, T, H / heads]."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def photo_memory(self, keys: torch.Tensor, values: torch.Tensor) -> AttentionMemory:
        """Keys and values [P, R, H] of the tokens of the photos."""
        mask = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        return AttentionMemory(self.split(keys).contiguous(), self.split(values).contiguous(), mask)

    def attend_to_words(
        self,
        query: torch.Tensor,
        new: KeyValueCache,
        cache: KeyValueCache,
        scale: float,
        dropout: float,
        bias: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeyValueCache]:
        """Causal self-attention of `query` [N, T, H], whose keys and values are `new`: [N, T, H], and the cache.

        bias: added to the scores [1, heads, T, all words].
        """
        keys, values = (torch.cat([old, self.split(rows)], dim=2) for old, rows in zip(cache, new, strict=True))
        causal = not cache[0].shape[2]
        if bias is not None:
            later = torch.ones(bias.shape[2:], dtype=torch.bool, device=bias.device).triu(
                1 + keys.shape[2] - query.shape[1]
            )
            bias, causal = bias.masked_fill(later, -torch.inf).to(query.dtype), False
        attended = F.scaled_dot_product_attention(
            self.split(query), keys, values, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scale
        )
        return attended.transpose(1, 2).flatten(2), (keys, values)

    def attend_to_photo(
        self, query: torch.Tensor, memory: AttentionMemory, scale: float, dropout: float, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cross-attention of `query` [N, T, H]: [N, T, H], and if `weigh` the mean weights [N, T, R] over the heads.

        The words of all captions of a photo are queries to its one memory.
        """
        rows, length, _ = query.shape
        grouped = self.split(query.reshape(len(memory), -1, query.shape[2]))
        if not weigh:
            attended = F.scaled_dot_product_attention(
                grouped, memory.keys, memory.values, dropout_p=dropout, scale=scale
            )
            return attended.transpose(1, 2).reshape(rows, length, -1), None
        weights = (grouped @ memory.keys.transpose(2, 3) * scale).float().softmax(-1)
        attended = F.dropout(weights, dropout).to(memory.values.dtype) @ memory.values
        return attended.transpose(1, 2).reshape(rows, length, -1), weights.mean(1).view(rows, length, -1)

    def attend_to_both(
        self,
        query: torch.Tensor,
        new: KeyValueCache,
        cache: KeyValueCache,
        memory: AttentionMemory,
        scale: float,
        dropout: float,
    ) -> tuple[torch.Tensor, torch.Tensor, KeyValueCache]:
        """Attention of `query` [N, T, H] to the photo's tokens and, causally, to the words, as one sequence.

        new: the words' own keys and values. Returns [N, T, H], the mean weights [N, T, R] over the heads at the photo's
        tokens, and the cache.
        """
        rows, length, _ = query.shape
        photos, count = len(memory), memory.keys.shape[2]
        keys, values = (torch.cat([old, self.split(rows)], dim=2) for old, rows in zip(cache, new, strict=True))
        to_words = self.split(query) @ keys.transpose(2, 3)
        if not cache[0].shape[2]:
            later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
            to_words = to_words.masked_fill(later, torch.finfo(to_words.dtype).min)
        grouped = self.split(query.reshape(photos, -1, query.shape[2])) @ memory.keys.transpose(2, 3)
        to_photo = grouped.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)  # [N, heads, T, R]
        weights = (torch.cat([to_photo, to_words], dim=3) * scale).float().softmax(-1)
        dropped = F.dropout(weights, dropout).to(values.dtype)
        of_photo = dropped[..., :count].unflatten(0, (photos, -1)).transpose(1, 2).flatten(2, 3) @ memory.values
        of_photo = of_photo.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
        attended = (dropped[..., count:] @ values + of_photo).transpose(1, 2).reshape(rows, length, -1)
        return attended, weights[..., :count].mean(1), (keys, values)


def photo_tokens(features: Features) -> torch.Tensor:
    """The class token and the cells of each photo: [P, 1 + N, D]."""
    return torch.cat([features.pooled.unsqueeze(1), features.cells], dim=1)

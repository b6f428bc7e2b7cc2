"""The text parts of published captioners as causal decoders: BLIP, GIT, and a ViT with GPT-2.

Li et al., "BLIP: Bootstrapping Language-Image Pre-training", ICML 2022; Wang et al., "GIT: A Generative Image-to-text
Transformer", TMLR 2022; Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Layers, weights
and arithmetic are those of transformers. Only the attention is written anew, so that all captions of a photo share one
copy of its keys and values, which are most of the memory that a captioner of 577 cells needs.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from src.base.hub_models import token_order
from src.models.attention import AttentionMemory
from src.models.decoder import END
from src.models.features import Features
from src.models.transformer import CachedDecoder, KeyValueCache, TransformerState

_AS_GOOD_AS_NEVER = 30.0
"""How much lower the logit of PAD, START or UNK is than that of END where the model has one token for both: it changes
no probability in float32."""


class LargeDecoder(CachedDecoder):
    """A decoder made of the text part of a published captioner, with our ids of its tokens.

    The photo's tokens are its class token, which is `pooled` of the features, and the cells of their grid; none of them
    is masked. special: its ids of PAD, START, END and UNK. size: of its vocabulary.
    """

    layers: Sequence[Any]
    heads: int
    positions: int
    """Tokens of the longest caption that it has learned places for, START among them."""
    own: torch.Tensor
    offset: torch.Tensor
    checkpointed: bool = False
    """Whether activations inside the layers are computed again in the backward pass."""

    def __init__(self, special: Sequence[int], size: int):
        super().__init__()
        order = token_order(special, size)
        stands_in = [place != END and own == special[END] for place, own in enumerate(order)]
        self.register_buffer("own", torch.tensor(order), persistent=False)
        self.register_buffer("offset", -_AS_GOOD_AS_NEVER * torch.tensor(stands_in).float(), persistent=False)

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
        return self.own_logits(words).index_select(-1, self.own) + self.offset

    def run(
        self, tokens: torch.Tensor, state: TransformerState
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[KeyValueCache, ...]]:
        first = state.cache[0][0].shape[2]
        words = self.embed(self.own[tokens], torch.arange(first, first + tokens.shape[1], device=tokens.device))
        weights, caches = None, []
        for layer, cache, memory in zip(self.layers, state.cache, state.memory, strict=True):
            arguments = layer, words, cache, memory, layer is self.layers[-1]
            if self.checkpointed and self.training and torch.is_grad_enabled():
                words, weights, cache = checkpoint(self.layer, *arguments, use_reentrant=False)
            else:
                words, weights, cache = self.layer(*arguments)
            caches.append(cache)
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
        self, query: torch.Tensor, new: KeyValueCache, cache: KeyValueCache, scale: float, dropout: float
    ) -> tuple[torch.Tensor, KeyValueCache]:
        """Causal self-attention of `query` [N, T, H], whose keys and values are `new`: [N, T, H], and the cache."""
        keys, values = (torch.cat([old, self.split(rows)], dim=2) for old, rows in zip(cache, new, strict=True))
        attended = F.scaled_dot_product_attention(
            self.split(query), keys, values, dropout_p=dropout, is_causal=not cache[0].shape[2], scale=scale
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


def photo_tokens(features: Features) -> torch.Tensor:
    """The class token and the cells of each photo: [P, 1 + N, D]."""
    return torch.cat([features.pooled.unsqueeze(1), features.grid], dim=1)


class Blip(LargeDecoder):
    """BLIP's text decoder: BERT with cross-attention to the photo's tokens in each layer."""

    def __init__(self, text: Any, special: Sequence[int]):
        """text: a BlipTextLMHeadModel."""
        super().__init__(special, text.config.vocab_size)
        self.embeddings, self.head = text.bert.embeddings, text.cls
        self.positions = text.config.max_position_embeddings
        self.layers, self.heads = cast(Any, text.bert.encoder.layer), text.config.num_attention_heads
        self.scale = 1 / math.sqrt(text.config.hidden_size // self.heads)

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        tokens, parts = photo_tokens(features), [layer.crossattention.self for layer in self.layers]
        return tuple(self.photo_memory(part.key(tokens), part.value(tokens)) for part in parts)

    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.embeddings(input_ids=tokens, position_ids=places.unsqueeze(0))

    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        own, other = layer.attention, layer.crossattention
        dropout = own.self.dropout.p if self.training else 0.0
        new = own.self.key(words), own.self.value(words)
        attended, cache = self.attend_to_words(own.self.query(words), new, cache, self.scale, dropout)
        words = own.output(attended, words)
        attended, weights = self.attend_to_photo(other.self.query(words), memory, self.scale, dropout, weigh)
        return layer.feed_forward_chunk(other.output(attended, words)), weights, cache

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(words)


class VitGpt2(LargeDecoder):
    """GPT-2 with cross-attention to the photo's tokens in each block.

    Blocks normalise their input first (pre-layer normalisation), and `projection` fits the photo's tokens to them where
    their width differs.
    """

    def __init__(self, text: Any, projection: nn.Module | None, special: Sequence[int]):
        """text: a GPT2LMHeadModel."""
        super().__init__(special, text.config.vocab_size)
        stack = text.transformer
        self.words, self.places, self.dropout = stack.wte, stack.wpe, stack.drop
        self.layers, self.heads = cast(Any, stack.h), text.config.num_attention_heads
        self.norm, self.head, self.projection = stack.ln_f, text.lm_head, projection
        self.positions = text.config.max_position_embeddings

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        tokens = photo_tokens(features)
        tokens = tokens if self.projection is None else self.projection(tokens)
        return tuple(self.photo_memory(*block.crossattention.c_attn(tokens).chunk(2, dim=2)) for block in self.layers)

    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.words(tokens) + self.places(places))

    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        own, other = layer.attn, layer.crossattention
        dropout = own.attn_dropout.p if self.training else 0.0
        query, *new = own.c_attn(layer.ln_1(words)).chunk(3, dim=2)
        attended, cache = self.attend_to_words(query, tuple(new), cache, own.scaling, dropout)
        words = words + own.resid_dropout(own.c_proj(attended))
        query = other.q_attn(layer.ln_cross_attn(words))
        attended, weights = self.attend_to_photo(query, memory, other.scaling, dropout, weigh)
        words = words + other.resid_dropout(other.c_proj(attended))
        return words + layer.mlp(layer.ln_2(words)), weights, cache

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(words))


class Git(LargeDecoder):
    """GIT's text decoder: BERT whose words attend to the photo's tokens before them and to one another.

    The photo's tokens attend to one another alone, so they go through the layers once for all its captions.
    """

    def __init__(self, text: Any, special: Sequence[int]):
        """text: a GitForCausalLM."""
        super().__init__(special, text.config.vocab_size)
        self.embeddings, self.projection, self.head = text.git.embeddings, text.git.visual_projection, text.output
        self.positions = text.config.max_position_embeddings
        self.layers, self.heads = cast(Any, text.git.encoder.layer), text.config.num_attention_heads
        self.scale = 1 / math.sqrt(text.config.hidden_size // self.heads)

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        tokens, memory = self.projection(photo_tokens(features)), []
        for layer in self.layers:
            part = layer.attention.self
            memory.append(self.photo_memory(part.key(tokens), part.value(tokens)))
            if layer is not self.layers[-1]:
                tokens = layer(tokens)
        return tuple(memory)

    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.embeddings(input_ids=tokens, position_ids=places.unsqueeze(0))

    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        part, (rows, length, _) = layer.attention.self, words.shape
        keys, values = (
            torch.cat([old, self.split(new)], dim=2)
            for old, new in zip(cache, (part.key(words), part.value(words)), strict=True)
        )
        query, photos, cells = part.query(words), len(memory), memory.keys.shape[2]
        to_words = self.split(query) @ keys.transpose(2, 3)
        if not cache[0].shape[2]:
            later = torch.ones(length, length, dtype=torch.bool, device=words.device).triu(1)
            to_words = to_words.masked_fill(later, torch.finfo(to_words.dtype).min)
        grouped = self.split(query.reshape(photos, -1, query.shape[2])) @ memory.keys.transpose(2, 3)
        to_photo = grouped.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)  # [N, heads, T, cells]
        weights = (torch.cat([to_photo, to_words], dim=3) * self.scale).float().softmax(-1)
        dropped = part.dropout(weights).to(values.dtype)
        of_photo = dropped[..., :cells].unflatten(0, (photos, -1)).transpose(1, 2).flatten(2, 3) @ memory.values
        of_photo = of_photo.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
        attended = (dropped[..., cells:] @ values + of_photo).transpose(1, 2).reshape(rows, length, -1)
        words = layer.feed_forward_chunk(layer.attention.output(attended, words))
        return words, weights[..., :cells].mean(1), (keys, values)

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(words)

"""The text parts of published captioners: BLIP, BLIP-2, GIT, and GPT-2 below a ViT.

Li et al., "BLIP: Bootstrapping Language-Image Pre-training", ICML 2022; Wang et al., "GIT: A Generative Image-to-text
Transformer", TMLR 2022; Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; BLIP-2: see there.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from src.models.attention import AttentionMemory
from src.models.features import Features
from src.models.large_decoders import LargeDecoder, photo_tokens
from src.models.transformer import KeyValueCache


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
        self_attention, cross_attention = layer.attention, layer.crossattention
        dropout = self_attention.self.dropout.p if self.training else 0.0
        new = self_attention.self.key(words), self_attention.self.value(words)
        attended, cache = self.attend_to_words(self_attention.self.query(words), new, cache, self.scale, dropout)
        words = self_attention.output(attended, words)
        attended, weights = self.attend_to_photo(cross_attention.self.query(words), memory, self.scale, dropout, weigh)
        return layer.feed_forward_chunk(cross_attention.output(attended, words)), weights, cache

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
        self_attention, cross_attention = layer.attn, layer.crossattention
        dropout = self_attention.attn_dropout.p if self.training else 0.0
        query, *new = self_attention.c_attn(layer.ln_1(words)).chunk(3, dim=2)
        attended, cache = self.attend_to_words(query, tuple(new), cache, self_attention.scaling, dropout)
        words = words + self_attention.resid_dropout(self_attention.c_proj(attended))
        query = cross_attention.q_attn(layer.ln_cross_attn(words))
        attended, weights = self.attend_to_photo(query, memory, cross_attention.scaling, dropout, weigh)
        words = words + cross_attention.resid_dropout(cross_attention.c_proj(attended))
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
        part = layer.attention.self
        dropout = part.dropout.p if self.training else 0.0
        new = part.key(words), part.value(words)
        attended, weights, cache = self.attend_to_both(part.query(words), new, cache, memory, self.scale, dropout)
        return layer.feed_forward_chunk(layer.attention.output(attended, words)), weights, cache

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(words)


class QFormer(LargeDecoder):
    """BLIP-2's text part: queries, which see the photo by a Q-Former, and a language model that reads what they saw.

    Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models",
    ICML 2023. Its words attend to the queries, not to the cells of the grid.
    """

    attends = False

    def __init__(self, model: Any, special: Sequence[int]):
        """model: a Blip2ForConditionalGeneration."""
        super().__init__(special, model.language_model.config.vocab_size)
        self.queries, self.former, self.projection = model.query_tokens, model.qformer, model.language_projection

    def prefix(self, features: Features) -> torch.Tensor:
        """What the queries saw, as embeddings of words: [P, Q, H]."""
        queries = self.queries.expand(len(features), -1, -1)
        seen = self.former(query_embeds=queries, encoder_hidden_states=photo_tokens(features))
        return self.projection(seen.last_hidden_state)


class Blip2(QFormer):
    """BLIP-2 with OPT, which reads the queries before the words.

    Zhang et al., "OPT: Open Pre-trained Transformer Language Models", 2022.
    """

    def __init__(self, model: Any, special: Sequence[int]):
        """model: whose OPT normalises the input of its layers."""
        super().__init__(model, special)
        text, stack = model.language_model, model.language_model.model.decoder
        self.words, self.places = stack.embed_tokens, stack.embed_positions
        self.layers, self.heads = cast(Any, stack.layers), text.config.num_attention_heads
        self.norm, self.head = stack.final_layer_norm, text.lm_head
        self.positions = text.config.max_position_embeddings - self.queries.shape[1]

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        words = self.prefix(features)
        mask = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        words = words + self._place(torch.arange(words.shape[1], device=words.device))
        nothing = self.split(words)[:, :, :0]
        before, memory = AttentionMemory(nothing, nothing, mask[:, :0]), []
        for layer in self.layers:
            words, _, (keys, values) = self.layer(layer, words, (nothing, nothing), before, False)
            memory.append(AttentionMemory(keys, values, mask))
        return tuple(memory)

    def _place(self, places: torch.Tensor) -> torch.Tensor:
        """Embeddings of places [T], of which the first are those of the queries."""
        return self.places(None, position_ids=places)

    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.words(tokens) + self._place(places + self.queries.shape[1])

    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        part, normed = layer.self_attn, layer.self_attn_layer_norm(words)
        dropout = part.dropout if self.training else 0.0
        new = part.k_proj(normed), part.v_proj(normed)
        attended, weights, cache = self.attend_to_both(part.q_proj(normed), new, cache, memory, part.scaling, dropout)
        words = words + F.dropout(part.out_proj(attended), layer.dropout, self.training)
        inner = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(words))))
        return words + F.dropout(inner, layer.dropout, self.training), weights, cache

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(words))


class Blip2T5(QFormer):
    """BLIP-2 with Flan-T5, whose encoder reads the queries, and whose decoder attends to what it made of them.

    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020.
    """

    positions = 512  # as it was trained; relative places have no end

    def __init__(self, model: Any, special: Sequence[int]):
        super().__init__(model, special)
        text, stack = model.language_model, model.language_model.decoder
        self.words, self.reader, self.dropout = stack.embed_tokens, text.encoder, stack.dropout
        self.layers, self.heads = cast(Any, stack.block), text.config.num_heads
        self.norm, self.head = stack.final_layer_norm, text.lm_head
        self.prompt = [text.config.bos_token_id] * (text.config.bos_token_id is not None)
        self.scale = text.config.d_model**-0.5 if text.config.scale_decoder_outputs else 1.0

    def memory(self, features: Features) -> tuple[AttentionMemory, ...]:
        seen = self.prefix(features)
        prompt = self.words(torch.tensor(self.prompt, dtype=torch.long, device=seen.device))
        read = self.reader(inputs_embeds=torch.cat([seen, prompt.expand(len(seen), -1, -1)], dim=1)).last_hidden_state
        parts = [block.layer[1].EncDecAttention for block in self.layers]
        return tuple(self.photo_memory(part.k(read), part.v(read)) for part in parts)

    def embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.words(tokens))

    def layer(
        self, layer: Any, words: torch.Tensor, cache: KeyValueCache, memory: AttentionMemory, weigh: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, KeyValueCache]:
        self_attention, cross_attention, feed_forward = layer.layer
        before, length = cache[0].shape[2], words.shape[1]
        # the first layer's places are those of all
        places = self.layers[0].layer[0].SelfAttention.compute_bias(length, before + length, past_seen_tokens=before)
        part, normed = self_attention.SelfAttention, self_attention.layer_norm(words)
        dropout = part.dropout if self.training else 0.0
        new = part.k(normed), part.v(normed)
        attended, cache = self.attend_to_words(part.q(normed), new, cache, 1.0, dropout, places)
        words = words + self_attention.dropout(part.o(attended))
        part = cross_attention.EncDecAttention
        attended, _ = self.attend_to_photo(part.q(cross_attention.layer_norm(words)), memory, 1.0, dropout, False)
        return feed_forward(words + cross_attention.dropout(part.o(attended))), None, cache

    def own_logits(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(words)) * self.scale)

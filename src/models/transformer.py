"""Transformers over the words that look at all cells of the photo in every layer; here the causal one.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017: its decoder, with the norms before the layers (Xiong et
al., "On Layer Normalization in the Transformer Architecture", ICML 2020) and GELU.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.base.errors import InputError
from src.models.attention import Cells, masked_softmax
from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings

Past = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of the words so far, in one layer: [N, heads, t, H / heads] each."""

_PLACE_WIDTH = 32
_PLACE_SCALE = 32  # the shortest wavelength of a cell's place is a fifth of the photo


@dataclass(frozen=True)
class TransformerState:
    """`past` and `cells`: by layer. `attention`: the last layer's, mean over heads; zero before the first step."""

    past: tuple[Past, ...]
    cells: tuple[Cells, ...]
    attention: torch.Tensor


class Layer(nn.Module):
    """Attention to the words so far, attention to the photo, feed-forward net; each on the norm of its input."""

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.words = nn.Linear(hidden, 3 * hidden)
        self.words_out = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, hidden)
        self.image = nn.Linear(hidden, 2 * hidden)
        self.image_out = nn.Linear(hidden, hidden)
        self.feedforward = nn.Sequential(nn.Linear(hidden, feedforward), nn.GELU(), nn.Linear(feedforward, hidden))
        self.dropout = nn.Dropout(dropout)

    def cells(self, image: torch.Tensor, mask: torch.Tensor) -> Cells:
        """Keys and values [P, heads, R, H / heads] of the cells `image` [P, R, H]."""
        keys, values = (self._split(part).contiguous() for part in self.image(image).chunk(2, dim=-1))
        return Cells(keys, values, mask)

    def forward(
        self, words: torch.Tensor, past: Past | None, cells: Cells, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Past, torch.Tensor]:
        """`words` [N, T, H] after those of `past`, in which T is 1 unless `past` is empty; and where they looked.

        Without a past all words see one another, `bias` [N, heads, T, T] added to their scores (-inf: not seen).
        Returns the words [N, T, H], the past with them, and the weights [N, T, R], mean over heads.
        """
        seen, past = self._remember(self.norms[0](words), past, bias)
        words = words + self.dropout(seen)
        seen, looked = self._look(self.norms[1](words), cells)
        words = words + self.dropout(seen)
        return words + self.dropout(self.feedforward(self.norms[2](words))), past, looked

    def _remember(self, words: torch.Tensor, past: Past | None, bias: torch.Tensor | None) -> tuple[torch.Tensor, Past]:
        query, keys, values = (self._split(part) for part in self.words(words).chunk(3, dim=-1))
        if past is None:
            seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype))
        else:
            first = not past[0].shape[2]
            keys, values = (torch.cat(parts, dim=2) for parts in zip(past, (keys, values), strict=True))
            seen = F.scaled_dot_product_attention(query, keys, values, is_causal=first)
        return self.words_out(seen.transpose(1, 2).flatten(2)), (keys, values)

    def _look(self, words: torch.Tensor, cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
        """All words of all captions of a photo are queries to its one set of cells."""
        rows, places, _ = words.shape
        query = self._split(self.query(words).view(len(cells), -1, words.shape[2]))
        scores = query @ cells.keys.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = masked_softmax(scores, cells.mask[:, None, None])
        seen = (weights.to(cells.values.dtype) @ cells.values).transpose(1, 2).reshape(rows, places, -1)
        return self.image_out(seen), weights.mean(dim=1).view(rows, places, -1)

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, T, H] as [N, heads, T, H / heads]."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Network(nn.Module):
    """Embedded symbols with sinusoidal places, any number of them, through `layers` layers and a last norm.

    The photo's cells are a linear layer and norm of its features, plus a linear layer of where they are (`boxes`).
    Dropout is on embedded symbols, on what each part of a layer adds, and before the output layer, whose weights are
    its own. Of a photo without cells it sees zeros. Raises InputError where `hidden` is no multiple of `heads`.
    """

    def __init__(self, settings: DecoderSettings, inputs: int, outputs: int, feature_width: int):
        super().__init__()
        hidden, heads = settings.hidden, settings.heads
        if hidden % heads:
            raise InputError(f"decoder.hidden={hidden} is no multiple of decoder.heads={heads}; change one of them")
        self.embedding = nn.Embedding(inputs, hidden, padding_idx=PAD)
        self.image = nn.Sequential(nn.Linear(feature_width, hidden), nn.LayerNorm(hidden))
        self.place = nn.Linear(4 * _PLACE_WIDTH, hidden)
        self.layers = nn.ModuleList(
            Layer(hidden, heads, settings.feedforward, settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(hidden, outputs)
        self._initialise(hidden)

    def _initialise(self, hidden: int) -> None:
        """Glorot for linear layers, zero biases; embedded words are of the size of their places."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(hidden))
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(hidden))
        nn.init.zeros_(self.embedding.weight.data[PAD])

    def cells(self, features: Features) -> tuple[Cells, ...]:
        """The photo as each layer takes it."""
        places = sinusoids(_PLACE_SCALE * boxes(features), _PLACE_WIDTH).flatten(2)
        image = self.image(features.grid) + self.place(places)
        return tuple(layer.cells(image, features.mask) for layer in self.layers)

    def embed(self, symbols: torch.Tensor, first: int) -> torch.Tensor:
        """Symbols [N, T], of which the first stands at place `first`, with their places: [N, T, H]."""
        width = self.embedding.embedding_dim
        places = sinusoids(torch.arange(first, first + symbols.shape[1], device=symbols.device), width)
        return self.dropout(self.embedding(symbols) * math.sqrt(width) + places)

    def last(self, words: torch.Tensor) -> torch.Tensor:
        """What the output layer takes, from what the last layer gives."""
        return self.dropout(self.norm(words))


class Transformer(Network, CausalDecoder):
    """A word sees the words before it."""

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, vocabulary_size, feature_width)

    def teacher_forced(self, features: Features, inputs: torch.Tensor) -> TeacherForced:
        words, _, looked = self._run(inputs, self.start(features))
        return TeacherForced(self.output(words), looked)

    def start(self, features: Features) -> TransformerState:
        cells = self.cells(features)
        past = tuple((each.keys[:, :, :0], each.values[:, :, :0]) for each in cells)
        return TransformerState(past, cells, torch.zeros_like(features.mask, dtype=torch.float32))

    def step(self, tokens: torch.Tensor, state: TransformerState) -> tuple[torch.Tensor, TransformerState]:
        words, past, looked = self._run(tokens.unsqueeze(1), state)
        logits = self.output(words.squeeze(1))
        return F.log_softmax(logits.float(), dim=-1), TransformerState(past, state.cells, looked.squeeze(1))

    def reorder(self, state: TransformerState, index: torch.Tensor) -> TransformerState:
        past = tuple((keys.index_select(0, index), values.index_select(0, index)) for keys, values in state.past)
        cells = tuple(each.reorder(index, len(state.attention)) for each in state.cells)
        return TransformerState(past, cells, state.attention.index_select(0, index))

    def _run(
        self, tokens: torch.Tensor, state: TransformerState
    ) -> tuple[torch.Tensor, tuple[Past, ...], torch.Tensor]:
        """Tokens [N, T] through all layers: as the output layer takes them [N, T, H], the past, where they looked."""
        words, past, looked = self.embed(tokens, state.past[0][0].shape[2]), [], state.attention
        for layer, before, cells in zip(self.layers, state.past, state.cells, strict=True):
            words, after, looked = layer(words, before, cells)
            past.append(after)
        return self.last(words), tuple(past), looked


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines [..., width] of positions [...], in wavelengths from 2π to 2π * 10000 (Vaswani et al., 3.5)."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width]


def boxes(features: Features) -> torch.Tensor:
    """Corners (x1, y1, x2, y2) of cells or regions, as parts of the photo's width and height: [B or 1, R, 4].

    A layout of boxes must be on that scale, 0 to 1, already.
    """
    if isinstance(features.layout, torch.Tensor):
        return features.layout
    height, width = features.layout
    top = (torch.arange(height, device=features.device) / height).view(-1, 1).expand(height, width)
    left = (torch.arange(width, device=features.device) / width).expand(height, width)
    return torch.stack([left, top, left + 1 / width, top + 1 / height], dim=-1).view(1, -1, 4)

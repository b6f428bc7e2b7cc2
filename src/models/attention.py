"""Show, Attend and Tell: a recurrent captioner that looks at the cells of the photo anew at each word.

Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015, with soft
attention. The attention is that of Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align
and Translate", ICLR 2015. `cell=gru, gate=false` with `project` is the network of the TensorFlow tutorial "Image
captioning with visual attention", but that one starts from zeros and has one more linear layer before the output.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.base.errors import InputError
from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings


@dataclass(frozen=True)
class Cells:
    """The cells of P photos as attention takes them: `keys` are compared, `values` are taken along, `mask` [P, R].

    A state of N captions holds a photo once: row p belongs to its N / P captions from p * N / P on.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    def reorder(self, index: torch.Tensor, captions: int) -> "Cells":
        """The cells of the captions at `index`, of `captions` in all.

        Those of a photo stay one row where they are neighbours and equally many for each photo, as beams are: then no
        cells are copied unless photos are dropped. Else each caption gets a row to itself.
        """
        photo = index // (captions // len(self))
        rows, counts = photo.unique_consecutive(return_counts=True)
        if (counts != counts[:1]).any():
            rows = photo
        if torch.equal(rows, torch.arange(len(self), device=rows.device)):
            return self
        return Cells(*(tensor.index_select(0, rows) for tensor in (self.keys, self.values, self.mask)))


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension where `mask`, exactly 0 elsewhere: float32. Without any True it is 0 all over."""
    scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0)


class AdditiveAttention(nn.Module):
    """Weights softmax(v · tanh(K cell + Q state)) over the cells of a photo."""

    def __init__(self, cell_width: int, state_width: int, width: int):
        super().__init__()
        self.keys = nn.Linear(cell_width, width)
        self.query = nn.Linear(state_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        for linear in (self.keys, self.query, self.score):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.keys.bias)

    def forward(self, state: torch.Tensor, cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
        """What N captions see from their `state` [N, H], the weighted mean [N, C], and the weights [N, R].

        Of a photo without cells (its mask is False all over) they see zeros.
        """
        query = self.query(state).unflatten(0, (len(cells), -1))
        scores = self.score((cells.keys.unsqueeze(1) + query.unsqueeze(2)).tanh_()).squeeze(3)
        weights = masked_softmax(scores, cells.mask.unsqueeze(1))
        seen = weights.to(cells.values.dtype) @ cells.values
        return seen.flatten(0, 1), weights.flatten(0, 1)


class Cell(nn.Module):
    """An LSTM or GRU without the weights of its inputs, so that inputs known beforehand are projected all at once."""

    def __init__(self, kind: str, hidden: int):
        super().__init__()
        self.lstm = kind == "lstm"
        self.width = hidden * (4 if self.lstm else 3)
        self.recurrence = nn.Linear(hidden, self.width)
        for gate in self.recurrence.weight.data.split(hidden):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.recurrence.bias)
        if self.lstm:  # the forget gate starts open
            nn.init.ones_(self.recurrence.bias.data.split(hidden)[1])

    def inputs(self, *widths: int) -> list[nn.Linear]:
        """Layers that project inputs of these widths to `width`; the cell takes the sum of what they give."""
        layers = [nn.Linear(width, self.width, bias=False) for width in widths]
        bound = math.sqrt(6 / (sum(widths) + self.recurrence.in_features))  # Glorot's, gate by gate
        for layer in layers:
            nn.init.uniform_(layer.weight, -bound, bound)
        return layers

    def forward(self, inputs: torch.Tensor, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The next (h, c) of the LSTM, or (h,) of the GRU, each float32 [N, H], from projected inputs [N, width]."""
        inputs, own = inputs.float(), self.recurrence(state[0]).float()
        if self.lstm:
            take, keep, new, show = (inputs + own).chunk(4, dim=1)
            memory = keep.sigmoid() * state[1] + take.sigmoid() * new.tanh()
            return show.sigmoid() * memory.tanh(), memory
        width = own.shape[1] // 3
        reset, keep = (inputs[:, : 2 * width] + own[:, : 2 * width]).sigmoid().chunk(2, dim=1)
        new = (inputs[:, 2 * width :] + reset * own[:, 2 * width :]).tanh()
        return (new + keep * (state[0] - new),)


@dataclass(frozen=True)
class AttentiveState:
    """`hidden`: what is remembered of N captions, each [N, ·], first of all what the output layer reads.

    `attention` is zero before the first step.
    """

    hidden: tuple[torch.Tensor, ...]
    cells: Cells
    attention: torch.Tensor


class Attentive(CausalDecoder):
    """What recurrent captioners with additive attention have in common.

    `project` is a linear layer and ReLU on each cell. Logits are Linear(dropout(h)): the output layer reads h alone,
    not also the word before and what was seen, as in Xu et al. Raises InputError where `layers` is not 1.
    """

    words: nn.Linear
    """Embedded words as the cell takes them; of all places at once in teacher forcing."""

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__()
        if settings.layers != 1:
            raise InputError(f"decoder.layers={settings.layers}: decoder.name={settings.name} has 1; leave it out")
        self.cell_width = settings.project or feature_width
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding, padding_idx=PAD)
        self.project = nn.Identity()
        if settings.project:
            self.project = nn.Sequential(nn.Linear(feature_width, settings.project), nn.ReLU())
        self.attention = AdditiveAttention(self.cell_width, settings.hidden, settings.attention)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(settings.hidden, vocabulary_size)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(settings.hidden))
        nn.init.zeros_(self.output.bias)

    @abstractmethod
    def _begin(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`hidden` of the state before the first word, from the mean of each photo's cells [N, C]."""

    @abstractmethod
    def _advance(self, word: torch.Tensor, state: AttentiveState) -> AttentiveState:
        """The state after a word, given as `words` makes it: [N, ·]."""

    def teacher_forced(self, features: Features, inputs: torch.Tensor) -> TeacherForced:
        state, outputs, looked = self.start(features), [], []
        for word in self.words(self.dropout(self.embedding(inputs))).unbind(1):
            state = self._advance(word, state)
            outputs.append(state.hidden[0])
            looked.append(state.attention)
        return TeacherForced(self.output(self.dropout(torch.stack(outputs, 1))), torch.stack(looked, 1))

    def start(self, features: Features) -> AttentiveState:
        values, mask = self.project(features.grid), features.mask
        keys = self.attention.keys(values)
        share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (share.to(values.dtype).unsqueeze(1) @ values).squeeze(1)
        values = values.to(keys.dtype)  # once, as autocast would convert them at each word
        return AttentiveState(self._begin(mean), Cells(keys, values, mask), torch.zeros_like(share))

    def step(self, tokens: torch.Tensor, state: AttentiveState) -> tuple[torch.Tensor, AttentiveState]:
        state = self._advance(self.words(self.dropout(self.embedding(tokens))), state)
        logits = self.output(self.dropout(state.hidden[0]))
        return F.log_softmax(logits.float(), dim=-1), state

    def reorder(self, state: AttentiveState, index: torch.Tensor) -> AttentiveState:
        hidden = tuple(tensor.index_select(0, index) for tensor in state.hidden)
        cells = state.cells.reorder(index, len(state.attention))
        return AttentiveState(hidden, cells, state.attention.index_select(0, index))


class Attention(Attentive):
    """Show, Attend and Tell: from its state h the net looks, then takes the word and what it saw together.

    The state starts as tanh(Linear(mean cell)). With `gate`, what was seen is scaled by β = sigmoid(Linear(h)), one
    factor for each of its dimensions (Xu et al., section 4.2.1, have one in all).
    """

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, feature_width)
        self.cell = Cell(settings.cell, settings.hidden)
        self.words, self.seen = self.cell.inputs(settings.embedding, self.cell_width)
        self.begin = nn.Linear(self.cell_width, settings.hidden * (2 if self.cell.lstm else 1))
        self.gate = nn.Linear(settings.hidden, self.cell_width) if settings.gate else None
        for linear in filter(None, (self.begin, self.gate)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _begin(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.begin(mean).float().tanh().chunk(2 if self.cell.lstm else 1, dim=1)

    def _advance(self, word: torch.Tensor, state: AttentiveState) -> AttentiveState:
        seen, looked = self.attention(state.hidden[0], state.cells)
        if self.gate is not None:
            seen = self.gate(state.hidden[0]).sigmoid() * seen
        return AttentiveState(self.cell(word + self.seen(seen), state.hidden), state.cells, looked)

"""Show, Attend and Tell: a recurrent decoder that attends to the cells of the photo at each word.

Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015, with soft
attention in the additive form of Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
Translate", ICLR 2015. `cell=gru, gate=false` with `project` is the network of the TensorFlow tutorial "Image captioning
with visual attention", but for its zero initial state and one more linear layer before the output.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from src.base.errors import InputError
from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings


@dataclass(frozen=True)
class AttentionMemory:
    """Keys, values and mask [P, R] of the cells of P photos that N captions attend to.

    Photo p belongs to the N / P captions from p * N / P on, so that the beams of a photo share one copy.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    def reorder(self, index: torch.Tensor, captions: int) -> "AttentionMemory":
        """The memory of the captions at `index`, out of `captions`.

        A photo stays one row where its captions are adjacent and every photo has equally many, as in beam search: then
        nothing is copied unless photos are dropped. Otherwise each caption gets a row of its own.
        """
        photo = index // (captions // len(self))
        rows, counts = photo.unique_consecutive(return_counts=True)
        if (counts != counts[:1]).any():
            rows = photo
        if torch.equal(rows, torch.arange(len(self), device=rows.device)):
            return self
        return AttentionMemory(*(tensor.index_select(0, rows) for tensor in (self.keys, self.values, self.mask)))

    def first(self, count: int, captions: int) -> "AttentionMemory":
        """The memory of the first `count` captions, out of `captions`."""
        if len(self) < captions:
            return self.reorder(torch.arange(count, device=self.mask.device), captions)
        return AttentionMemory(self.keys[:count], self.values[:count], self.mask[:count])


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension where `mask`, exactly 0 elsewhere: float32. All 0 where the mask is all False."""
    scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0)


class AdditiveAttention(nn.Module):
    """Attention weights softmax(v · tanh(K cell + Q state)) over the cells of a photo."""

    def __init__(self, cell_width: int, state_width: int, width: int):
        super().__init__()
        self.keys = nn.Linear(cell_width, width)
        self.query = nn.Linear(state_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        for linear in (self.keys, self.query, self.score):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.keys.bias)

    def forward(self, state: torch.Tensor, memory: AttentionMemory) -> tuple[torch.Tensor, torch.Tensor]:
        """Context vectors [N, C] and attention weights [N, R] of N captions with `state` [N, H].

        The context of a photo without cells (its mask is all False) is zero.
        """
        query = self.query(state).unflatten(0, (len(memory), -1))
        scores = self.score((memory.keys.unsqueeze(1) + query.unsqueeze(2)).tanh_()).squeeze(3)
        weights = masked_softmax(scores, memory.mask.unsqueeze(1))
        context = weights.to(memory.values.dtype) @ memory.values
        return context.flatten(0, 1), weights.flatten(0, 1)


class RecurrentCell(nn.Module):
    """An LSTM or GRU cell without its input weights, so that known inputs are projected for all steps at once."""

    def __init__(self, kind: str, hidden: int):
        super().__init__()
        self.lstm = kind == "lstm"
        self.width = hidden * (4 if self.lstm else 3)
        self.recurrence = nn.Linear(hidden, self.width)
        for gate in self.recurrence.weight.data.split(hidden):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.recurrence.bias)
        if self.lstm:  # a forget gate that is open at first lets gradients through
            nn.init.ones_(self.recurrence.bias.data.split(hidden)[1])

    def input_layers(self, *widths: int) -> list[nn.Linear]:
        """Layers that project inputs of these widths to `width`; the cell takes the sum of their outputs."""
        layers = [nn.Linear(width, self.width, bias=False) for width in widths]
        bound = math.sqrt(6 / (sum(widths) + self.recurrence.in_features))  # Glorot's, gate by gate
        for layer in layers:
            nn.init.uniform_(layer.weight, -bound, bound)
        return layers

    def forward(self, inputs: torch.Tensor, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The next (h, c) of the LSTM, or (h,) of the GRU, each float32 [N, H], from projected inputs [N, width]."""
        inputs, recurrent = inputs.float(), self.recurrence(state[0]).float()
        if self.lstm:
            input_gate, forget_gate, new, output_gate = (inputs + recurrent).chunk(4, dim=1)
            memory = forget_gate.sigmoid() * state[1] + input_gate.sigmoid() * new.tanh()
            return output_gate.sigmoid() * memory.tanh(), memory
        gates = 2 * self.width // 3
        reset, update = (inputs[:, :gates] + recurrent[:, :gates]).sigmoid().chunk(2, dim=1)
        new = (inputs[:, gates:] + reset * recurrent[:, gates:]).tanh()
        return (new + update * (state[0] - new),)


@dataclass(frozen=True)
class AttentionState:
    """`hidden`: the recurrent state of N captions, each [N, ·]; the output layer reads the first.

    `attention` is zero before the first step.
    """

    hidden: tuple[torch.Tensor, ...]
    memory: AttentionMemory
    attention: torch.Tensor

    def first(self, captions: int) -> "AttentionState":
        """The state of the first captions."""
        if captions == len(self.attention):
            return self
        hidden = tuple(tensor[:captions] for tensor in self.hidden)
        return AttentionState(hidden, self.memory.first(captions, len(self.attention)), self.attention[:captions])


class AttentionDecoder(CausalDecoder):
    """Common base of the recurrent decoders with additive attention.

    `project` is a linear layer and ReLU on each cell. Logits are Linear(dropout(h)): unlike in Xu et al. the output
    layer reads h alone, not also the previous word and the context. Raises InputError where `layers` is not 1.
    """

    reads_pooled = False
    word_input: nn.Linear
    """Projects word embeddings for the cell; of all positions at once in teacher forcing."""

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__()
        if settings.layers != 1:
            raise InputError(f"decoder.layers={settings.layers}: decoder.name={settings.name} has 1; leave it out")
        self.cell_width = settings.project or feature_width
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding, padding_idx=PAD)
        self.project = nn.Linear(feature_width, settings.project) if settings.project else None
        self.attention = AdditiveAttention(self.cell_width, settings.hidden, settings.attention)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(settings.hidden, vocabulary_size)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(settings.hidden))
        nn.init.zeros_(self.output.bias)

    @abstractmethod
    def _initial_hidden(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`hidden` of the state before the first word, from the mean of each photo's cells [N, C]."""

    @abstractmethod
    def _advance(self, word: torch.Tensor, state: AttentionState) -> AttentionState:
        """The state after a word, projected by `word_input`: [N, ·]."""

    def teacher_forced(
        self,
        features: Features,
        inputs: torch.Tensor,
        photo: torch.Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> TeacherForced:
        state, outputs, weights = self.start_each(features, len(inputs), photo), [], []
        sizes = list(batch_sizes or [len(inputs)] * inputs.shape[1])
        tokens = torch.cat([column[:size] for column, size in zip(inputs.unbind(1), sizes, strict=True)])
        for word in self.word_input(self.dropout(self.embedding(tokens))).split(sizes):
            state = self._advance(word, state.first(len(word)))
            outputs.append(state.hidden[0])
            weights.append(state.attention)
        hidden = pad_sequence(list(self.dropout(torch.cat(outputs)).split(sizes)))
        return TeacherForced(hidden, self.output, pad_sequence(weights))

    def start(self, features: Features) -> AttentionState:
        values = features.cells if self.project is None else F.relu(features.projected(self.project))
        mask = features.mask
        keys = self.attention.keys(values)
        uniform = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (uniform.to(values.dtype).unsqueeze(1) @ values).squeeze(1)
        values = values.to(keys.dtype)  # once, as autocast would convert them at each word
        memory = AttentionMemory(keys, values, mask)
        return AttentionState(self._initial_hidden(mean), memory, torch.zeros_like(uniform))

    def step(self, tokens: torch.Tensor, state: AttentionState) -> tuple[torch.Tensor, AttentionState]:
        state = self._advance(self.word_input(self.dropout(self.embedding(tokens))), state)
        logits = self.output(self.dropout(state.hidden[0]))
        return F.log_softmax(logits.float(), dim=-1), state

    def reorder(self, state: AttentionState, index: torch.Tensor, balanced: bool = False) -> AttentionState:
        hidden = tuple(tensor.index_select(0, index) for tensor in state.hidden)
        memory = state.memory if balanced else state.memory.reorder(index, len(state.attention))
        return AttentionState(hidden, memory, state.attention.index_select(0, index))


class ShowAttendTell(AttentionDecoder):
    """Show, Attend and Tell: the previous hidden state attends, then the cell takes the word and the context together.

    The initial state is tanh(Linear(mean cell)). With `gate`, the context is scaled by β = sigmoid(Linear(h)), one
    factor per dimension (Xu et al., section 4.2.1, have one in all).
    """

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, feature_width)
        self.cell = RecurrentCell(settings.cell, settings.hidden)
        self.word_input, self.context_input = self.cell.input_layers(settings.embedding, self.cell_width)
        self.initial = nn.Linear(self.cell_width, settings.hidden * (2 if self.cell.lstm else 1))
        self.gate = nn.Linear(settings.hidden, self.cell_width) if settings.gate else None
        for linear in filter(None, (self.initial, self.gate)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _initial_hidden(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.initial(mean).float().tanh().chunk(2 if self.cell.lstm else 1, dim=1)

    def _advance(self, word: torch.Tensor, state: AttentionState) -> AttentionState:
        context, weights = self.attention(state.hidden[0], state.memory)
        if self.gate is not None:
            context = self.gate(state.hidden[0]).sigmoid() * context
        hidden = self.cell(word + self.context_input(context), state.hidden)
        return AttentionState(hidden, state.memory, weights)

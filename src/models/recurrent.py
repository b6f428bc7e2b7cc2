"""A recurrent captioner: an LSTM or GRU that is shown the photo first or with every word.

`image="first"` is Show and Tell (Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015);
`image="every"` feeds the photo beside each word (as in Donahue et al., "Long-term Recurrent Convolutional Networks
for Visual Recognition and Description", CVPR 2015).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings

_BF16_ON_CPU = not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether oneDNN has an LSTM in bf16 for this processor: it needs AVX-512."""


@dataclass(frozen=True)
class RecurrentState:
    """`hidden`: h, or h and c of the LSTM, each [layers, N, H]. `image` [N, E]: the photo as the cell sees it."""

    hidden: tuple[torch.Tensor, ...]
    image: torch.Tensor
    attention: None = None


class Recurrent(CausalDecoder):
    """LSTM or GRU over word embeddings and the pooled features of the photo."""

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__()
        self.every = settings.image == "every"
        self.layers, self.hidden_width = settings.layers, settings.hidden
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding, padding_idx=PAD)
        self.image = nn.Sequential(nn.Linear(feature_width, settings.embedding), nn.LayerNorm(settings.embedding))
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[settings.cell]
        self.cell = kind(
            settings.embedding * (2 if self.every else 1),
            settings.hidden,
            num_layers=settings.layers,
            batch_first=True,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(settings.hidden, vocabulary_size)
        self._initialise()
        self.train()

    def train(self, mode: bool = True) -> "Recurrent":
        super().train(mode)
        self.cell.train()  # cuDNN differentiates a cell in training mode only, and rewards need it in evaluation mode
        self.cell.dropout = self.dropout.p if mode and self.layers > 1 else 0.0
        return self

    def _initialise(self) -> None:
        """Glorot for inputs, orthogonal for recurrence, gate by gate; the LSTM's forget gate starts open."""
        for name, parameter in self.cell.named_parameters():
            gates = parameter.data.split(self.hidden_width)
            for gate in gates:
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate)
                else:
                    nn.init.zeros_(gate)
            if isinstance(self.cell, nn.LSTM) and name.startswith("bias_ih"):
                nn.init.ones_(gates[1])
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(self.hidden_width))
        nn.init.zeros_(self.output.bias)

    def _inputs(self, words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Word embeddings [N, T, E] and the photo [N, E] as the cell takes them at the places of the words."""
        return torch.cat([words, image.unsqueeze(1).expand_as(words)], dim=-1) if self.every else words

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.embedding(tokens))

    def teacher_forced(self, features: Features, inputs: torch.Tensor) -> TeacherForced:
        self.cell.flatten_parameters()
        image = self.image(features.pooled)
        inputs = self._inputs(self._embed(inputs), image)
        if not self.every:
            inputs = torch.cat([image.unsqueeze(1), inputs], dim=1)
        outputs, _ = self._run(inputs, None)
        return TeacherForced(self.output(self.dropout(outputs if self.every else outputs[:, 1:])))

    def start(self, features: Features) -> RecurrentState:
        self.cell.flatten_parameters()
        image = self.image(features.pooled)
        zeros = image.new_zeros(self.layers, len(features), self.hidden_width)
        state = RecurrentState((zeros, zeros) if isinstance(self.cell, nn.LSTM) else (zeros,), image)
        return state if self.every else self._advance(image.unsqueeze(1), state)[1]

    def step(self, tokens: torch.Tensor, state: RecurrentState) -> tuple[torch.Tensor, RecurrentState]:
        inputs = self._inputs(self._embed(tokens.unsqueeze(1)), state.image)
        outputs, state = self._advance(inputs, state)
        logits = self.output(self.dropout(outputs.squeeze(1)))
        return F.log_softmax(logits.float(), dim=-1), state

    def _advance(self, inputs: torch.Tensor, state: RecurrentState) -> tuple[torch.Tensor, RecurrentState]:
        lstm = isinstance(self.cell, nn.LSTM)
        outputs, hidden = self._run(inputs, state.hidden if lstm else state.hidden[0])
        return outputs, RecurrentState(hidden if lstm else (hidden,), state.image)

    def _run(self, inputs: torch.Tensor, hidden) -> tuple[torch.Tensor, ...]:
        """What the cell gives from a state on (None: zeros), in float32 where the processor has no bf16 for it."""
        if inputs.device.type != "cpu" or _BF16_ON_CPU:
            return self.cell(inputs, hidden)
        with torch.autocast("cpu", enabled=False):
            if hidden is not None:
                hidden = tuple(each.float() for each in hidden) if isinstance(hidden, tuple) else hidden.float()
            return self.cell(inputs.float(), hidden)

    def reorder(self, state: RecurrentState, index: torch.Tensor) -> RecurrentState:
        hidden = tuple(tensor.index_select(1, index) for tensor in state.hidden)
        return RecurrentState(hidden, state.image.index_select(0, index))

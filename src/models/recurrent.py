"""Show and Tell: an LSTM or GRU that is fed the photo first or with every word.

`image="first"` is Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015. `image="every"`
concatenates the photo to each word, as Donahue et al., "Long-term Recurrent Convolutional Networks for Visual
Recognition and Description", CVPR 2015.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.models.decoder import PAD, CausalDecoder, TeacherForced
from src.models.features import Features
from src.settings.schema import DecoderSettings

_BF16_ON_CPU = not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether oneDNN has a bf16 LSTM for this processor: it needs AVX-512."""


def _in_bf16_on_gpu() -> bool:
    """Whether autocast is to bf16 on GPUs; torch would run cuDNN's LSTM and GRU in fp16, without a scaled loss."""
    return torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


@dataclass(frozen=True)
class RecurrentState:
    """`hidden`: (h,), or (h, c) of the LSTM, each [layers, N, H]. `image` [N, E]: the embedded photo."""

    hidden: tuple[torch.Tensor, ...]
    image: torch.Tensor
    attention: None = None


class Recurrent(CausalDecoder):
    """LSTM or GRU over word embeddings and the pooled features of the photo."""

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__()
        self.image_at_every_word = settings.image == "every"
        self.layers, self.hidden_width = settings.layers, settings.hidden
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding, padding_idx=PAD)
        self.image = nn.Sequential(nn.Linear(feature_width, settings.embedding), nn.LayerNorm(settings.embedding))
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[settings.cell]
        self.cell = kind(
            settings.embedding * (2 if self.image_at_every_word else 1),
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
        # cuDNN has no backward pass for a cell in evaluation mode, where self-critical training needs one
        self.cell.train()
        self.cell.dropout = self.dropout.p if mode and self.layers > 1 else 0.0
        return self

    def _initialise(self) -> None:
        """Glorot for input weights and orthogonal for recurrent ones, gate by gate; the LSTM's forget gate is open."""
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

    def _inputs(self, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """The cell's inputs [N, T, ·]: embedded tokens [N, T], concatenated with the photo [N, E] where so set."""
        words = self.dropout(self.embedding(tokens))
        return torch.cat([words, image.unsqueeze(1).expand_as(words)], dim=-1) if self.image_at_every_word else words

    def teacher_forced(
        self,
        features: Features,
        inputs: torch.Tensor,
        photo: torch.Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> TeacherForced:
        self.cell.flatten_parameters()
        image = self.image(features.pooled)
        image = image.repeat_interleave(len(inputs) // len(image), 0) if photo is None else image[photo]
        embedded = self._inputs(inputs, image)
        if self.image_at_every_word:
            outputs, _ = self._run(embedded, None)
        else:
            outputs = self._run(torch.cat([image.unsqueeze(1), embedded], dim=1), None)[0][:, 1:]
        return TeacherForced(self.dropout(outputs), self.output)

    def start(self, features: Features) -> RecurrentState:
        self.cell.flatten_parameters()
        image = self.image(features.pooled)
        zeros = image.new_zeros(self.layers, len(features), self.hidden_width)
        hidden: tuple[torch.Tensor, ...] = (zeros, zeros) if isinstance(self.cell, nn.LSTM) else (zeros,)
        if not self.image_at_every_word:
            _, hidden = self._run(image.unsqueeze(1), hidden)
        return RecurrentState(hidden, image)

    def step(self, tokens: torch.Tensor, state: RecurrentState) -> tuple[torch.Tensor, RecurrentState]:
        outputs, hidden = self._run(self._inputs(tokens.unsqueeze(1), state.image), state.hidden)
        logits = self.output(self.dropout(outputs.squeeze(1)))
        return F.log_softmax(logits.float(), dim=-1), RecurrentState(hidden, state.image)

    def reorder(self, state: RecurrentState, index: torch.Tensor, balanced: bool = False) -> RecurrentState:
        hidden = tuple(tensor.index_select(1, index) for tensor in state.hidden)
        return RecurrentState(hidden, state.image.index_select(0, index))

    def _run(
        self, inputs: torch.Tensor, hidden: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Outputs [N, T, H] and the next hidden state (None: zeros); float32 where the device has no bf16 LSTM."""
        device = inputs.device.type
        if (device == "cpu" and not _BF16_ON_CPU) or (device == "cuda" and _in_bf16_on_gpu()):
            with torch.autocast(device, enabled=False):
                return self._cell(inputs.float(), hidden and tuple(each.float() for each in hidden))
        return self._cell(inputs, hidden)

    def _cell(
        self, inputs: torch.Tensor, hidden: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if isinstance(self.cell, nn.LSTM):
            return self.cell(inputs, hidden)
        outputs, h = self.cell(inputs, hidden and hidden[0])
        return outputs, (h,)

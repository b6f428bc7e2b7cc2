"""Up-Down: one LSTM decides where to look, a second one writes.

Anderson et al., "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering", CVPR 2018,
section 3.2. The regions may be those of a detector or the cells of a grid.
"""

import torch

from src.models.attention import Attentive, AttentiveState, Cell
from src.settings.schema import DecoderSettings


class UpDown(Attentive):
    """The top-down LSTM takes the writer's state, the mean region and the word; the writer what was seen from there.

    `hidden` of the state: h and c of the writer, h and c of the top-down LSTM (zero at first), and the mean region as
    the top-down LSTM takes it.
    """

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, feature_width)
        hidden = settings.hidden
        self.top_down, self.writer = Cell("lstm", hidden), Cell("lstm", hidden)
        self.above, self.mean, self.words = self.top_down.inputs(hidden, self.cell_width, settings.embedding)
        self.seen, self.below = self.writer.inputs(self.cell_width, hidden)
        self.hidden_width = hidden

    def _begin(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        zeros = mean.new_zeros(len(mean), self.hidden_width, dtype=torch.float32)
        return zeros, zeros, zeros, zeros, self.mean(mean)

    def _advance(self, word: torch.Tensor, state: AttentiveState) -> AttentiveState:
        *writer, h, c, mean = state.hidden
        h, c = self.top_down(self.above(writer[0]) + mean + word, (h, c))
        seen, looked = self.attention(h, state.cells)
        writer = self.writer(self.seen(seen) + self.below(h), tuple(writer))
        return AttentiveState((*writer, h, c, mean), state.cells, looked)

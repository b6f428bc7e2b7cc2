"""Up-Down: one LSTM attends, a second one generates the words.

Anderson et al., "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering", CVPR 2018,
section 3.2. The regions may be those of a detector or the cells of a grid.
"""

import torch

from src.models.attention import AttentionDecoder, AttentionState, RecurrentCell
from src.settings.schema import DecoderSettings


class UpDown(AttentionDecoder):
    """The attention LSTM takes the language LSTM's state, the mean region and the word; the language LSTM its context.

    `hidden` of the state: h and c of the language LSTM, h and c of the attention LSTM (all zero at first), and the
    projected mean region.
    """

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        super().__init__(settings, vocabulary_size, feature_width)
        hidden = settings.hidden
        self.attention_lstm, self.language_lstm = RecurrentCell("lstm", hidden), RecurrentCell("lstm", hidden)
        self.language_input, self.mean_input, self.word_input = self.attention_lstm.input_layers(
            hidden, self.cell_width, settings.embedding
        )
        self.context_input, self.attention_input = self.language_lstm.input_layers(self.cell_width, hidden)
        self.hidden_width = hidden

    def _initial_hidden(self, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        zeros = mean.new_zeros(len(mean), self.hidden_width, dtype=torch.float32)
        return zeros, zeros, zeros, zeros, self.mean_input(mean)

    def _advance(self, word: torch.Tensor, state: AttentionState) -> AttentionState:
        h_language, c_language, h, c, mean = state.hidden
        h, c = self.attention_lstm(self.language_input(h_language) + mean + word, (h, c))
        context, weights = self.attention(h, state.memory)
        inputs = self.context_input(context) + self.attention_input(h)
        h_language, c_language = self.language_lstm(inputs, (h_language, c_language))
        return AttentionState((h_language, c_language, h, c, mean), state.memory, weights)

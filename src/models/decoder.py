"""The protocol of caption decoders: training, self-critical training and every search stand on it.

Captions are int64 tensors [B, T]: word ids, then END, then PAD up to T. START is never part of them: decoders prepend
it themselves. A row of PAD only means "no caption".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from src.models.features import Features

PAD, START, END, UNK = 0, 1, 2, 3


class State(Protocol):
    """The recurrent state or key-value cache of N partial captions: each causal decoder has a dataclass of its own."""

    @property
    def attention(self) -> torch.Tensor | None:
        """Attention weights [N, regions] of the last step, each row summing to 1; None without attention."""


class Decoder(nn.Module, ABC):
    """Any caption decoder.

    `reads_pooled`: the features' `pooled`; else it reads their cells alone.
    """

    reads_pooled: bool = True

    @abstractmethod
    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Log-probability of each token of `captions` [B, T] under the decoder's own factorisation.

        Float32 [B, T], 0 at PAD. Row b of `captions` belongs to photo b. For rescoring captions, as tests do; training
        computes its losses from `teacher_forced` or `predict_masked`.
        """


@dataclass(frozen=True)
class TeacherForced:
    """The output of teacher forcing.

    hidden: what the output layer `output` reads, [B, T, H]. attention: [B, T, regions], None without attention.
    """

    hidden: torch.Tensor
    output: Callable[[torch.Tensor], torch.Tensor]
    attention: torch.Tensor | None = None

    @property
    def logits(self) -> torch.Tensor:
        """Of every position, [B, T, V]."""
        return self.output(self.hidden)

    def logits_at(self, places: torch.Tensor) -> torch.Tensor:
        """Of the M positions where `places`, bool [B, T], is true: [M, V]. Counting them waits for a GPU."""
        return self.output(self.hidden[places])


class CausalDecoder(Decoder):
    """An autoregressive decoder: each token is conditioned on the photo and the tokens before it."""

    @abstractmethod
    def teacher_forced(
        self,
        features: Features,
        inputs: torch.Tensor,
        photo: torch.Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> TeacherForced:
        """Logits of the token at each position given the input tokens [N, T] up to it: see `shift_right`.

        photo: the photo of each caption, int64 [N]; not given: the N / P captions of photo p, of the P in `features`,
        are the rows from p * N / P on. batch_sizes: of captions sorted by length, the longest first, how many have a
        token at each of the T positions, as in torch's PackedSequence. What is answered behind a caption's end means
        nothing then, and a decoder may save the work.
        """

    @abstractmethod
    def start(self, features: Features) -> State:
        """The state of N = len(features) captions before their first token."""

    @abstractmethod
    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, State]:
        """Feed one token to each caption (int64 [N]; START at first): log-probabilities of the next one, and state.

        The log-probabilities are float32 [N, V], equal to those of `teacher_forced` up to rounding.
        """

    @abstractmethod
    def reorder(self, state: Any, index: torch.Tensor, balanced: bool = False) -> State:
        """The state of the captions at `index` (int64 [M], with omissions and repetitions).

        balanced: the photos stay in their order, each with equally many captions. To find that out would wait for a
        GPU.
        """

    def start_each(self, features: Features, captions: int, photo: torch.Tensor | None) -> Any:
        """The state of so many captions before their first token; photo: as for `teacher_forced`."""
        state, photos = self.start(features), len(features)
        if photo is not None:
            return self.reorder(state, photo)
        if captions == photos:
            return state
        each = torch.arange(photos, device=features.device).repeat_interleave(captions // photos)
        return self.reorder(state, each, balanced=True)

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        return token_log_probs(self.teacher_forced(features, shift_right(captions)).logits, captions)


class NonAutoregressiveDecoder(Decoder):
    """A decoder that predicts all positions of a target sequence in parallel, given some of its tokens.

    A target sequence is int64 [N, L]: `mask` at masked positions, PAD behind its end. For a conditional masked language
    model it is the caption's words; with a `blank` it is a CTC alignment, which collapses to the caption: repetitions
    are merged, then blanks removed.
    """

    mask: int
    """The id of the mask token, an input only: it is not among the V outputs."""
    blank: int | None = None
    """The id of the CTC blank, for decoders that have one."""
    uniforms_per_token: int
    """Random numbers that `mask_tokens` needs per position of the longest caption and one more."""

    @abstractmethod
    def encode(self, features: Features) -> Any:
        """What all passes over the same P photos share, computed once."""

    @abstractmethod
    def length_log_probs(self, encoded: Any) -> torch.Tensor:
        """Log-probability of a caption of 0, 1, 2 … words: float32 [P, lengths], -inf at 0."""

    @abstractmethod
    def length_loss(self, encoded: Any, words: torch.Tensor) -> torch.Tensor:
        """Loss of the predicted lengths where the captions have `words` [P] words: float32 [P]."""

    @abstractmethod
    def target_length(self, words: torch.Tensor) -> torch.Tensor:
        """Positions of the target sequence of a caption of `words` words: int64 of the same shape."""

    @abstractmethod
    def predict_masked(self, encoded: Any, targets: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of every token at each position of `targets` [N, L]: float32 [N, L, V].

        The N / P target sequences of photo p are the rows from p * N / P on.
        """

    @abstractmethod
    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For training: target sequences [N, L] of `captions` [N, T], complete, and where to mask them (bool).

        A deterministic function of each caption and its `uniforms` [N, uniforms_per_token * (T + 1) or more] in [0, 1).
        """

    def fully_masked(self, words: torch.Tensor) -> torch.Tensor:
        """The target sequences [N, L] of captions of `words` [N] words with every position masked."""
        length = self.target_length(words)
        within = torch.arange(int(length.max()) if len(length) else 0, device=words.device) < length.unsqueeze(1)
        return torch.where(within, self.mask, PAD)


def word_counts(captions: torch.Tensor) -> torch.Tensor:
    """Words of each of `captions` [N, T], END not counted: int64 [N]."""
    return (captions != PAD).sum(1).sub(1).clamp(min=0)


def random_mask(lengths: torch.Tensor, width: int, uniforms: torch.Tensor) -> torch.Tensor:
    """Mask k of the first `lengths` [N] positions of each row, k uniform in 1 … length: bool [N, width].

    `uniforms` [N, 1 + width or more]: the first gives k, the others the order in which positions are masked.
    """
    count = 1 + (uniforms[:, 0] * lengths).long().clamp(max=lengths - 1)
    within = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
    order = uniforms[:, 1 : 1 + width].masked_fill(~within, 2.0).argsort(dim=1).argsort(dim=1)
    return (order < count.unsqueeze(1)) & within


def token_log_probs(logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of `captions` [B, T] under `logits` [B, T, V]: float32 [B, T], 0 at PAD."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), captions.flatten(), ignore_index=PAD, reduction="none")
    return -loss.view_as(captions)


def shift_right(captions: torch.Tensor) -> torch.Tensor:
    """The inputs [B, T] of teacher forcing: START, then all tokens but the last; position t never sees token t."""
    start = captions.new_full((captions.shape[0], 1), START)
    return torch.cat([start, captions[:, :-1]], dim=1)

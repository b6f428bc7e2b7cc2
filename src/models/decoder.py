"""The protocol that every captioner speaks, whatever it is made of.

Captions are int64 tensors [B, T]: words, then END, then PAD up to T. START is never in them; a decoder puts it in
front by itself. A row of PAD only is "no caption".
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from src.models.features import Features

PAD, START, END, UNK = 0, 1, 2, 3


class State(Protocol):
    """What a causal decoder remembers of N captions begun: a dataclass of its own with at least this field."""

    attention: torch.Tensor | None
    """[N, regions]: where the last step looked, each row summing to 1; None for a decoder without attention."""


class Decoder(nn.Module, ABC):
    """Any captioner."""

    @abstractmethod
    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Log-probability of each token of `captions` [B, T] given what the decoder may see: float32 [B, T], 0 at PAD.

        Training, self-critical training and rescoring stand on it. Row b of `captions` belongs to photo b.
        """


@dataclass(frozen=True)
class TeacherForced:
    """What teacher forcing gives: `logits` [B, T, V], and `attention` [B, T, regions] (None: it does not attend)."""

    logits: torch.Tensor
    attention: torch.Tensor | None = None


class CausalDecoder(Decoder):
    """A captioner that writes word by word: each token depends on the photo and on the tokens before it only."""

    @abstractmethod
    def teacher_forced(self, features: Features, inputs: torch.Tensor) -> TeacherForced:
        """Scores of the token at each place, fed `inputs` [B, T]: see `shift_right`."""

    @abstractmethod
    def start(self, features: Features) -> State:
        """The state of N = len(features) captions before their first token."""

    @abstractmethod
    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, State]:
        """Feed one token to each caption (int64 [N]; START at first): log-probabilities of the next one, and state.

        The log-probabilities are float32 [N, V], equal to those of `teacher_forced` up to rounding.
        """

    @abstractmethod
    def reorder(self, state: Any, index: torch.Tensor) -> State:
        """The state of the captions at `index` (int64 [M]; one may be dropped or come several times)."""

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        return token_log_probs(self.teacher_forced(features, shift_right(captions)).logits, captions)


class NonAutoregressiveDecoder(Decoder):
    """A captioner that writes all words at once, on a canvas that may show some of them already.

    A canvas is int64 [N, P]: a symbol at each of a caption's places, `mask` where one is hidden, PAD behind them.
    Symbols are the words, and `blank` for a decoder that has one: a place without a word. What a finished canvas says
    is `read`. Where there is a blank, neighbouring places with one symbol say it once.
    """

    mask: int
    """Stands for a hidden symbol in a canvas; no output of the decoder."""
    blank: int | None = None
    """The symbol of a place without a word."""
    uniforms_per_token: int
    """Random numbers that `mask_tokens` takes, for each token of the longest caption and one more."""

    @abstractmethod
    def encode(self, features: Features) -> Any:
        """What all passes over the same P photos share, computed once."""

    @abstractmethod
    def lengths(self, seen: Any) -> torch.Tensor:
        """Log-probability of a caption of 0, 1, 2 … words: float32 [P, L], impossible (-inf) at 0."""

    @abstractmethod
    def length_loss(self, seen: Any, words: torch.Tensor) -> torch.Tensor:
        """What it costs that the photos' captions have `words` [P] words: float32 [P]."""

    @abstractmethod
    def places(self, words: torch.Tensor) -> torch.Tensor:
        """How many places the canvas of a caption of `words` words has: int64 of that shape."""

    @abstractmethod
    def predict_masked(self, seen: Any, canvas: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of each symbol at each place of `canvas` [N, P], PAD behind its end: float32 [N, P, V].

        Photo p belongs to its N / photos canvases from p * N / photos on.
        """

    @abstractmethod
    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas [N, P] of `captions` [N, T] with all that training shows or hides, and which it hides (bool).

        `uniforms` [N, uniforms_per_token * (T + 1) or more] in [0, 1): it is a function of them and the caption alone.
        """

    def fully_masked(self, words: torch.Tensor) -> torch.Tensor:
        """The canvas [N, P] of captions of `words` [N] words, all places hidden."""
        places = self.places(words)
        within = torch.arange(int(places.max()) if len(places) else 0, device=words.device) < places.unsqueeze(1)
        return torch.where(within, self.mask, PAD)


def word_counts(captions: torch.Tensor) -> torch.Tensor:
    """Words of each of `captions` [N, T], END not counted: int64 [N]."""
    return (captions != PAD).sum(1).sub(1).clamp(min=0)


def random_mask(places: torch.Tensor, width: int, uniforms: torch.Tensor) -> torch.Tensor:
    """Hide a uniform number of each row's first `places` [N], at least one, at random: bool [N, width].

    `uniforms` [N, 1 + width or more]: how many, and in what order.
    """
    number = 1 + (uniforms[:, 0] * places).long().clamp(max=places - 1)
    within = torch.arange(width, device=places.device) < places.unsqueeze(1)
    order = uniforms[:, 1 : 1 + width].masked_fill(~within, 2.0).argsort(dim=1).argsort(dim=1)
    return (order < number.unsqueeze(1)) & within


def token_log_probs(logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of `captions` [B, T] under `logits` [B, T, V]: float32 [B, T], 0 at PAD."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), captions.flatten(), ignore_index=PAD, reduction="none")
    return -loss.view_as(captions)


def shift_right(captions: torch.Tensor) -> torch.Tensor:
    """What teacher forcing feeds [B, T]: START and all tokens but the last, so that place t never sees token t."""
    start = captions.new_full((captions.shape[0], 1), START)
    return torch.cat([start, captions[:, :-1]], dim=1)

"""Constrained steps of a causal decoder, and the generation of captions token by token.

`decoder` is any `StepDecoder`; `features` is what its `start` takes, with a len() (the photos) and a `.device`. The
caller puts the decoder into evaluation mode.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from src.base.errors import InputError
from src.decoding.constraints import Constraints, constrain
from src.models.decoder import END, PAD, START


class StepDecoder(Protocol):
    """What autoregressive search needs of a decoder: a `CausalDecoder` has it, and so does an average of several."""

    def start(self, features: Any) -> Any: ...

    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]: ...

    def reorder(self, state: Any, index: torch.Tensor) -> Any: ...


def check_numbers(log_probs: torch.Tensor, valid: torch.Tensor | None = None) -> None:
    """Raise InputError where log_probs [..., V] are NaN, in rows that are `valid` (bool [...])."""
    broken = log_probs.amax(dim=-1).isnan()
    if (broken if valid is None else broken & valid).any():
        raise InputError("the captioner's probabilities are not numbers (NaN): its weights are broken; train it again")


def constrained_step(
    decoder: StepDecoder, state: Any, tokens: torch.Tensor, constraints: Constraints, valid: torch.Tensor | None = None
) -> tuple[torch.Tensor, Any]:
    """Feed the last of `tokens` [N, t], or START: the next token's log-probabilities [N, V], and state.

    Raises InputError where the decoder's log-probabilities are NaN in a row that is `valid` (bool [N]).
    """
    inputs = tokens[:, -1] if tokens.shape[1] else tokens.new_full((len(tokens),), START)
    log_probs, state = decoder.step(inputs, state)
    check_numbers(log_probs := log_probs.float(), valid)
    return constrain(log_probs, tokens, constraints), state


def generate(
    decoder: StepDecoder,
    state: Any,
    captions: int,
    constraints: Constraints,
    choose: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Complete captions: tokens int64 [N, maximum_words + 1] and log-probabilities float32 [N].

    `state`: of the N captions before their first token. `choose(log_probs, rows, position)` returns the tokens [M] at
    `position` of the captions `rows` [M], given constrained log-probabilities [M, V]. Finished captions are dropped
    from the batch.
    """
    tokens = torch.full((captions, constraints.maximum_words + 1), PAD, device=device)
    log_prob = torch.zeros(captions, device=device)
    active, position = torch.arange(captions, device=device), 0
    while len(active) and position <= constraints.maximum_words:
        log_probs, state = constrained_step(decoder, state, tokens[active, :position], constraints)
        following = choose(log_probs, active, position)
        tokens[active, position] = following
        log_prob[active] += log_probs.gather(1, following.unsqueeze(1)).squeeze(1)
        unfinished = (following != END).nonzero().squeeze(1)
        if len(unfinished) < len(active):
            active, state = active[unfinished], decoder.reorder(state, unfinished)
        position += 1
    return tokens, log_prob

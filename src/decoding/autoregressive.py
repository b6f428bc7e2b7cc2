"""One step of a causal decoder under the constraints, and captions written by such steps.

`decoder` is anything with the `start`, `step` and `reorder` of `src.models.decoder.CausalDecoder`; `features` is what
its `start` takes, with a len() (the photos) and a `.device`. The caller puts the decoder into evaluation mode.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from src.base.errors import InputError
from src.decoding.constraints import Constraints, constrain
from src.models.decoder import END, PAD, START


class StepDecoder(Protocol):
    """What a search needs of a captioner: a causal decoder has it, and an ensemble of them."""

    def start(self, features: Any) -> Any: ...

    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]: ...

    def reorder(self, state: Any, index: torch.Tensor) -> Any: ...


def next_log_probs(
    decoder: StepDecoder,
    fed: torch.Tensor,
    state: Any,
    tokens: torch.Tensor,
    constraints: Constraints,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Any]:
    """One step: the allowed log-probabilities [N, V] after `tokens` [N, t], of which `fed` [N] is the last, and state.

    Raises InputError where the model's log-probabilities are not numbers in a row that `counts` (bool [N]).
    """
    log_probs, state = decoder.step(fed, state)
    log_probs = log_probs.float()
    broken = log_probs.amax(dim=1).isnan()
    if (broken if counts is None else broken & counts).any():
        raise InputError("the captioner's probabilities are not numbers (NaN): its weights are broken; train it again")
    return constrain(log_probs, tokens, constraints), state


def generate(
    decoder: StepDecoder,
    state: Any,
    captions: int,
    constraints: Constraints,
    choose: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions from their first word to END: tokens int64 [N, maximum_words + 1] and log-probabilities float32 [N].

    `state`: of the N captions before their first token. `choose(allowed, rows, place)` says which token [M] stands at
    `place` in the captions `rows` [M], given their allowed log-probabilities [M, V]. Finished captions are not computed
    any further.
    """
    tokens = torch.full((captions, constraints.maximum_words + 1), PAD, device=device)
    log_prob = torch.zeros(captions, device=device)
    going, fed = torch.arange(captions, device=device), torch.full((captions,), START, device=device)
    for place in range(constraints.maximum_words + 1):
        if not len(going):
            break
        allowed, state = next_log_probs(decoder, fed, state, tokens[going, :place], constraints)
        fed = choose(allowed, going, place)
        tokens[going, place] = fed
        log_prob[going] += allowed.gather(1, fed.unsqueeze(1)).squeeze(1)
        left = (fed != END).nonzero().squeeze(1)
        if len(left) < len(going):
            going, fed, state = going[left], fed[left], decoder.reorder(state, left)
    return tokens, log_prob

"""Captions from CTC emissions: best path decoding, and prefix beam search with exact prefix probabilities.

Graves, "Supervised Sequence Labelling with Recurrent Neural Networks", 2012, section 7.5. The probability of a prefix,
summed over all captions that begin with it, gives an exact next-word distribution: as a causal decoder with this
distribution, CTC shares beam search and all constraints with the other decoders.
"""

from dataclasses import dataclass
from typing import Any

import torch

from src.decoding.autoregressive import StepDecoder
from src.decoding.beam import beam, greedy
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import Constraints, satisfied
from src.models.attention import AttentionMemory
from src.models.ctc import CTCPrefix, clamped_emissions, ctc_token_log_probs
from src.models.decoder import END, PAD, UNK


@dataclass(frozen=True)
class PrefixState:
    """`emissions`: one copy per target sequence, shared by its beams; probabilities of words and log-probabilities."""

    prefix: CTCPrefix
    emissions: AttentionMemory
    started: bool = False


class CTCPrefixDecoder:
    """CTC emissions as a causal decoder: the exact log-probability of each next word, and of the end."""

    def __init__(self, blank: int):
        self.blank = blank

    def start(self, features: torch.Tensor) -> PrefixState:
        """The state before the first word of N captions; `features`: `clamped_emissions` [N, L, V]."""
        mask = features.new_ones(features.shape[:2])
        emissions = AttentionMemory(features[:, :, : self.blank].exp(), features, mask)
        return PrefixState(CTCPrefix.empty(features, self.blank), emissions)

    def step(self, tokens: torch.Tensor, state: PrefixState) -> tuple[torch.Tensor, PrefixState]:
        prefix, emissions = state.prefix, state.emissions
        positions = emissions.values.shape[1]
        index = tokens.view(len(emissions), -1, 1).expand(-1, -1, positions)
        of_tokens = emissions.values.transpose(1, 2).gather(1, index).flatten(0, 1)  # [N, L]
        if state.started:
            prefix = prefix.extend(tokens, of_tokens)
        before = torch.logaddexp(prefix.ends_in_word, prefix.ends_in_blank)[:, :-1]
        largest = before.amax(dim=1, keepdim=True)  # a log-sum-exp over positions as one matrix product
        weights = (before - largest).exp().to(emissions.keys.dtype).unflatten(0, (len(emissions), -1))
        log_probs = (weights @ emissions.keys).flatten(0, 1).double().log() + largest
        # the last word again needs a blank in between
        repeated = torch.logsumexp(prefix.ends_in_blank[:, :-1] + of_tokens, dim=1, keepdim=True)
        log_probs.scatter_(1, tokens.unsqueeze(1), repeated)
        log_probs[:, END] = prefix.caption_log_prob()
        log_probs -= prefix.log_prob.unsqueeze(1)
        return log_probs.float(), PrefixState(prefix, emissions, True)

    def reorder(self, state: PrefixState, index: torch.Tensor) -> PrefixState:
        emissions = state.emissions.reorder(index, len(state.prefix.last))
        return PrefixState(state.prefix.select(index), emissions, state.started)


def collapse(targets: torch.Tensor, blank: int | None, width: int) -> torch.Tensor:
    """The captions of complete target sequences [N, L]: words, END, PAD [N, width], cut after width - 1 words.

    With a blank, repetitions are merged and blanks removed.
    """
    is_word = targets != PAD
    if blank is not None:
        is_word &= targets != blank
        is_word[:, 1:] &= targets[:, 1:] != targets[:, :-1]
    order = is_word.cumsum(1) - 1
    row, position = (is_word & (order < width - 1)).nonzero(as_tuple=True)
    tokens = targets.new_full((len(targets), width), PAD)
    tokens[row, order[row, position]] = targets[row, position]
    words = is_word.sum(1).clamp(max=width - 1)
    return tokens.scatter_(1, words.unsqueeze(1), END)


def ctc_decode(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    blank: int,
    constraints: Constraints,
    prefix_beam: int,
    length_penalty: float,
) -> Candidates:
    """Candidates [N, K] with exact log-probabilities from log_probs [N, L, V]; `targets` [N, L] is PAD at padding.

    With prefix_beam 0 the best path: the caption of the most probable alignment, or, where it violates a constraint,
    greedy search by prefixes. Otherwise prefix beam search of that width, K = prefix_beam.
    """
    emissions = clamped_emissions(log_probs, targets, blank)
    if prefix_beam:
        return beam(CTCPrefixDecoder(blank), emissions, constraints, prefix_beam, length_penalty)
    best_path = torch.where(targets == PAD, PAD, emissions[:, :, UNK + 1 :].argmax(dim=2) + UNK + 1)
    tokens = collapse(best_path, blank, max(constraints.maximum_words, targets.shape[1]) + 1)
    violated = ~satisfied(tokens, constraints)
    tokens = tokens[:, : constraints.maximum_words + 1]
    log_prob = ctc_token_log_probs(emissions, blank, tokens).sum(1)
    rows = violated.nonzero().squeeze(1)
    if len(rows):
        replace_by_greedy(CTCPrefixDecoder(blank), emissions[rows], constraints, rows, tokens, log_prob)
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1))


def replace_by_greedy(
    decoder: StepDecoder,
    features: Any,
    constraints: Constraints,
    rows: torch.Tensor,
    tokens: torch.Tensor,
    log_prob: torch.Tensor,
) -> None:
    """Overwrite the captions `rows` of `tokens` [N, T] and `log_prob` [N] by those of greedy search."""
    replacement = greedy(decoder, features, constraints)
    tokens[rows] = PAD
    tokens[rows, : replacement.tokens.shape[2]] = replacement.tokens[:, 0]
    log_prob[rows] = replacement.log_prob[:, 0]

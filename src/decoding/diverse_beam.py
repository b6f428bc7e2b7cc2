"""Diverse beam search with Hamming diversity, counted as in the authors' code (github.com/ashwinkalyan/dbs).

Vijayakumar et al., "Diverse Beam Search for Improved Description of Complex Scenes", AAAI 2018.
"""

from typing import Any

import torch

from src.base.errors import InputError
from src.decoding.autoregressive import StepDecoder
from src.decoding.beam import NEG_INF, Expansions, Hypotheses, best_expansions, search_beams
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import Constraints


def group_width(width: int, groups: int) -> int:
    """Beams of each group. Raises InputError where the beam cannot be divided."""
    if width % groups:
        raise InputError(f"decoding.beam={width} cannot be divided into decoding.beam_groups={groups} equal groups")
    return width // groups


@torch.no_grad()
def diverse_beam(
    decoder: StepDecoder,
    features: Any,
    constraints: Constraints,
    width: int,
    length_penalty: float,
    groups: int,
    diversity: float,
) -> Candidates:
    """The `width` captions of each photo that `groups` beam searches find, by descending normalised log-probability.

    Each group is a beam search of width / groups beams as described in `beam`, but for its ranking: at each position
    the groups choose in turn, and a token is penalised by `diversity` for each time that it is among the first width /
    groups expansions of an earlier group at that position. Penalties accumulate in the score that ranks a hypothesis
    within its group; its log_prob is the model's own. A finished group penalises nothing. Groups may find the same
    caption. One group is beam search.

    Raises InputError where groups do not divide width, and where the decoder's log-probabilities are NaN.
    """
    beams, photos = group_width(width, groups), len(features)
    searches = torch.arange(photos * groups, device=features.device)  # group s % groups of photo s // groups

    def rank(live: Hypotheses, log_probs: torch.Tensor, beams: int, active: torch.Tensor) -> Expansions:
        counts = log_probs.new_zeros(photos, log_probs.shape[2])
        rows, parts = [], []
        for group in range(groups):
            row = (active % groups == group).nonzero().squeeze(1)
            photo = active[row] // groups
            part = best_expansions(live.select(row), log_probs[row], beams, diversity * counts[photo])
            tokens, valid = part.tokens[:, :beams, -1], part.log_prob[:, :beams] > NEG_INF
            counts[photo] = counts[photo].scatter_add(1, tokens, valid.to(counts.dtype))
            rows.append(row)
            parts.append(part)
        original_order = torch.cat(rows).argsort()
        fields = ("score", "log_prob", "tokens", "parent")
        return Expansions(*(torch.cat([getattr(part, field) for part in parts])[original_order] for field in fields))

    state = decoder.reorder(decoder.start(features), searches // groups)
    finished = search_beams(decoder, state, searches, constraints, beams, length_penalty, rank)
    tokens, log_prob = trimmed(finished.tokens.view(photos, width, -1)), finished.log_prob.view(photos, width)
    return Candidates(tokens, log_prob).ranked(length_penalty)

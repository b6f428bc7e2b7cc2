"""Diverse beam search with Hamming diversity, counted as the authors' code does (github.com/ashwinkalyan/dbs).

Vijayakumar et al., "Diverse Beam Search for Improved Description of Complex Scenes", AAAI 2018.
"""

from typing import Any

import torch

from src.base.errors import InputError
from src.decoding.autoregressive import StepDecoder
from src.decoding.beam import DEAD, Live, Ranked, explore, rank
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import Constraints


def width_of_group(width: int, groups: int) -> int:
    """Captions of each group. Raises InputError where the beam cannot be divided."""
    if groups < 1 or width % groups:
        raise InputError(
            f"decoding.beam={width} cannot be divided into decoding.beam_groups={groups} groups of equal size"
        )
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
    """The `width` captions of each photo that `groups` beam searches find, best normalised log-probability first.

    Each group is a beam search of width / groups captions by the rule of `beam`, but for its ranking: at each place
    the groups choose in turn, and a token costs `diversity` for each time that it stands at that place among the first
    width / groups continuations of an earlier group. What a caption paid stays in its rank within the group; its
    log_prob is the model's own. A group that is done makes nothing dearer. Groups may find the same caption. One group
    is beam search.

    Raises InputError where groups do not divide width, and where the model's log-probabilities are not numbers.
    """
    narrow = width_of_group(width, groups)
    photos = len(features)
    searches = torch.arange(photos * groups, device=features.device)
    state = decoder.reorder(decoder.start(features), searches // groups)
    taking_turns = _Turns(photos, groups, diversity)
    found = explore(decoder, state, searches, constraints, narrow, length_penalty, taking_turns)
    together = Candidates(
        trimmed(found.tokens.view(photos, width, -1)), found.log_prob.view(photos, width), f"diverse{width}"
    )
    return together.ranked(length_penalty)


class _Turns:
    """Ranks the continuations of group after group; search s is that of group s % groups of photo s // groups."""

    def __init__(self, photos: int, groups: int, diversity: float):
        self.photos, self.groups, self.diversity = photos, groups, diversity

    def __call__(self, live: Live, allowed: torch.Tensor, width: int, going: torch.Tensor) -> Ranked:
        taken = allowed.new_zeros(self.photos, allowed.shape[2])
        members, parts = [], []
        for group in range(self.groups):
            mine = (going % self.groups == group).nonzero().squeeze(1)
            photos = going[mine] // self.groups
            part = rank(live.select(mine), allowed[mine], width, self.diversity * taken[photos])
            chosen, real = part.tokens[:, :width, -1], part.log_prob[:, :width] > DEAD
            taken[photos] = taken[photos].scatter_add(1, chosen, real.to(taken.dtype))
            members.append(mine)
            parts.append(part)
        back = torch.cat(members).argsort()
        fields = ("score", "log_prob", "tokens", "source")
        return Ranked(*(torch.cat([getattr(part, field) for part in parts])[back] for field in fields))

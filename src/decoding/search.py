"""Search for captions with any causal decoder, all photos and beams of a step at once.

`decoder` is anything with the `start`, `step` and `reorder` of `src.models.decoder.CausalDecoder`; `features` is what
its `start` takes, with a len() (the photos) and a `.device`. The caller puts the decoder into evaluation mode.
"""

from dataclasses import dataclass
from typing import Any

import torch

from src.decoding.constraints import Constraints, constrain
from src.errors import InputError
from src.models.decoder import END, PAD, START, CausalDecoder

_DEAD = float("-inf")


@dataclass(frozen=True)
class Candidates:
    """Up to K captions for each of B photos, the best first.

    `tokens` int64 [B, K, T]: words, END, then PAD. `log_prob` float32 [B, K]: sum over the words and END. Where a
    photo has fewer than K candidates the rest is PAD with log_prob -inf. `source`: the search that made them.
    """

    tokens: torch.Tensor
    log_prob: torch.Tensor
    source: str

    def lengths(self) -> torch.Tensor:
        """Tokens of each candidate, END counted: int64 [B, K]."""
        return (self.tokens != PAD).sum(dim=2)

    def scores(self, length_penalty: float) -> torch.Tensor:
        """log_prob / length ** length_penalty, END counted in the length: float32 [B, K]."""
        return normalised(self.log_prob, self.lengths().clamp(min=1), length_penalty)


def normalised(log_prob: torch.Tensor, length: int | torch.Tensor, length_penalty: float) -> torch.Tensor:
    """log_prob / length ** length_penalty: 0 favours short captions, 1 ranks by the mean over tokens."""
    return log_prob / length**length_penalty


@torch.no_grad()
def greedy(decoder: CausalDecoder, features: Any, constraints: Constraints) -> Candidates:
    """The most probable allowed token at each place, until END: one candidate a photo.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    photos, device = len(features), features.device
    tokens = torch.full((photos, constraints.maximum_words + 1), PAD, device=device)
    log_prob = torch.zeros(photos, device=device)
    going = torch.arange(photos, device=device)
    state, fed = decoder.start(features), torch.full((photos,), START, device=device)
    for place in range(constraints.maximum_words + 1):
        if not len(going):
            break
        allowed, state = _next(decoder, fed, state, tokens[going, :place], constraints)
        best, fed = allowed.max(dim=1)
        tokens[going, place] = fed
        log_prob[going] += best
        left = (fed != END).nonzero().squeeze(1)
        if len(left) < len(going):
            going, fed, state = going[left], fed[left], decoder.reorder(state, left)
    return Candidates(_trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1), "greedy")


@torch.no_grad()
def beam(
    decoder: CausalDecoder, features: Any, constraints: Constraints, width: int, length_penalty: float
) -> Candidates:
    """Beam search: the `width` best captions that it finds for each photo, ranked by normalised log-probability.

    The rule, for each photo by itself. One caption is live at first, the empty one. At each step all allowed
    continuations of all live captions are ranked by log-probability. Those among the first `width` that end with END
    are finished. The first `width` of those that do not end are the next live ones. The search ends when `width` or
    more captions are finished in all, or none is live; with `maximum_words` words only END may follow. Of the
    finished ones the `width` with the highest log_prob / length ** length_penalty are kept, END counted in the
    length. Width 1 is greedy search.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    if width < 1:
        raise ValueError(f"beam width {width} is not at least 1")
    photos, device = len(features), features.device
    live = _Live(torch.zeros(photos, 1, device=device), torch.zeros(photos, 1, 0, dtype=torch.long, device=device))
    done = _Finished(photos, width, constraints.maximum_words + 1, length_penalty, device)
    going = torch.arange(photos, device=device)
    state, fed = decoder.start(features), torch.full((photos,), START, device=device)
    for _ in range(constraints.maximum_words + 1):
        if not len(going):
            break
        allowed, state = _next(decoder, fed, state, live.tokens.flatten(0, 1), constraints, live.log_prob.flatten())
        ranked = _rank(live, allowed, width)
        done.add(going, ranked, width)
        live, source = _advance(ranked, width)
        alive = (live.log_prob > _DEAD).any(dim=1) & (done.count[going] < width)
        kept = alive.nonzero().squeeze(1)
        going, live, source = going[kept], _Live(live.log_prob[kept], live.tokens[kept]), source[kept]
        state, fed = decoder.reorder(state, source.flatten()), live.tokens[:, :, -1].flatten()
    return Candidates(_trimmed(done.tokens), done.log_prob, f"beam{width}")


@dataclass(frozen=True)
class _Live:
    """Captions begun of A photos: log_prob [A, L] (-inf where there are fewer than L), tokens [A, L, t]."""

    log_prob: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True)
class _Ranked:
    """The best continuations [A, R] of the live captions, best first, and the rows of the state they come from."""

    log_prob: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor


class _Finished:
    """The `width` best finished captions of every photo so far, best first."""

    def __init__(self, photos: int, width: int, length: int, length_penalty: float, device: torch.device):
        self.tokens = torch.full((photos, width, length), PAD, device=device)
        self.log_prob = torch.full((photos, width), _DEAD, device=device)
        self.score = torch.full((photos, width), _DEAD, device=device)
        self.count = torch.zeros(photos, dtype=torch.long, device=device)
        self.length_penalty = length_penalty

    def add(self, photos: torch.Tensor, ranked: _Ranked, width: int) -> None:
        """Take the captions that end among the first `width` of `ranked`, whose rows are the given photos."""
        tokens, log_prob = ranked.tokens[:, :width], ranked.log_prob[:, :width]
        length = tokens.shape[2]
        ended = (tokens[:, :, -1] == END) & (log_prob > _DEAD)
        log_prob = log_prob.masked_fill(~ended, _DEAD)
        tokens = tokens.masked_fill(~ended.unsqueeze(2), PAD)
        tokens = torch.nn.functional.pad(tokens, (0, self.tokens.shape[2] - length), value=PAD)
        score = torch.cat([self.score[photos], normalised(log_prob, length, self.length_penalty)], dim=1)
        score, best = score.sort(dim=1, descending=True, stable=True)
        best = best[:, : self.score.shape[1]]
        self.score[photos] = score[:, : self.score.shape[1]]
        self.log_prob[photos] = torch.cat([self.log_prob[photos], log_prob], dim=1).gather(1, best)
        self.tokens[photos] = _pick(torch.cat([self.tokens[photos], tokens], dim=1), best)
        self.count[photos] += ended.sum(dim=1)


def _next(
    decoder: CausalDecoder,
    fed: torch.Tensor,
    state: Any,
    tokens: torch.Tensor,
    constraints: Constraints,
    live: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Any]:
    """One step: the allowed log-probabilities [N, V] after `tokens` [N, t], of which `fed` is the last, and state."""
    log_probs, state = decoder.step(fed, state)
    log_probs = log_probs.float()
    broken = log_probs.isnan().any(dim=1)
    if (broken if live is None else broken & (live > _DEAD)).any():
        raise InputError("the captioner's probabilities are not numbers (NaN): its weights are broken; train it again")
    return constrain(log_probs, tokens, constraints), state


def _rank(live: _Live, allowed: torch.Tensor, width: int) -> _Ranked:
    """The best 2 * width continuations: as at most `width` of them end, `width` that go on are among them."""
    photos, captions = live.log_prob.shape
    total = (live.log_prob.unsqueeze(2) + allowed.view(photos, captions, -1)).flatten(1)
    log_prob, place = total.topk(min(2 * width, total.shape[1]), dim=1)
    source = place // allowed.shape[1]
    tokens = torch.cat([_pick(live.tokens, source), (place % allowed.shape[1]).unsqueeze(2)], dim=2)
    first = torch.arange(photos, device=source.device).unsqueeze(1) * captions
    return _Ranked(log_prob, tokens, source + first)


def _advance(ranked: _Ranked, width: int) -> tuple[_Live, torch.Tensor]:
    """The first `width` continuations that do not end, and their rows in the state."""
    ended = ranked.tokens[:, :, -1] == END
    order = ended.int().sort(dim=1, stable=True).indices[:, :width]
    log_prob = ranked.log_prob.masked_fill(ended, _DEAD).gather(1, order)
    return _Live(log_prob, _pick(ranked.tokens, order)), ranked.rows.gather(1, order)


def _pick(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """tokens [A, L, t] at index [A, R], photo by photo: [A, R, t]."""
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def _trimmed(tokens: torch.Tensor) -> torch.Tensor:
    """Without the last places where no caption has a token."""
    used = int((tokens != PAD).any(dim=0).any(dim=0).sum())
    return tokens[:, :, : max(used, 1)]

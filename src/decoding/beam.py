"""Greedy and beam search with any causal decoder, all photos and beams of a step at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from src.decoding.autoregressive import StepDecoder, generate, next_log_probs
from src.decoding.candidates import Candidates, normalised, pick, trimmed
from src.decoding.constraints import Constraints
from src.models.decoder import END, PAD, START

DEAD = float("-inf")


@torch.no_grad()
def greedy(decoder: StepDecoder, features: Any, constraints: Constraints) -> Candidates:
    """The most probable allowed token at each place, until END: one candidate a photo.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    state = decoder.start(features)
    tokens, log_prob = generate(
        decoder, state, len(features), constraints, lambda allowed, *_: allowed.argmax(dim=1), features.device
    )
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1), "greedy")


@torch.no_grad()
def beam(
    decoder: StepDecoder, features: Any, constraints: Constraints, width: int, length_penalty: float
) -> Candidates:
    """Beam search: the `width` best captions that it finds for each photo, ranked by normalised log-probability.

    The rule, for each photo by itself. One caption is live at first, the empty one. At each step all allowed
    continuations of all live captions are ranked by log-probability. Those among the first `width` that end with END
    are finished. The first `width` of those that do not end are the next live ones. The search ends when `width` or
    more captions are finished in all, or none is live; with `maximum_words` words only END may follow. Of the
    finished ones the `width` with the highest log_prob / length ** length_penalty are kept, END counted in the
    length, the best first. Width 1 is greedy search.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    if width < 1:
        raise ValueError(f"beam width {width} is not at least 1")
    state, searches = decoder.start(features), torch.arange(len(features), device=features.device)

    def best(live: Live, allowed: torch.Tensor, width: int, _) -> Ranked:
        return rank(live, allowed, width)

    found = explore(decoder, state, searches, constraints, width, length_penalty, best)
    return Candidates(trimmed(found.tokens), found.log_prob, f"beam{width}")


@dataclass(frozen=True)
class Live:
    """Captions begun by A searches.

    `score` [A, L]: by what they are ranked, -inf where there are fewer than L. `log_prob` [A, L], `tokens` [A, L, t].
    """

    score: torch.Tensor
    log_prob: torch.Tensor
    tokens: torch.Tensor

    def select(self, index: torch.Tensor) -> "Live":
        """The captions of the searches at `index`."""
        return Live(self.score[index], self.log_prob[index], self.tokens[index])


@dataclass(frozen=True)
class Ranked:
    """The best continuations [A, R] of the live captions, best score first; `source` [A, R]: of which of the L."""

    score: torch.Tensor
    log_prob: torch.Tensor
    tokens: torch.Tensor
    source: torch.Tensor


class Finished:
    """The `width` best finished captions of every search so far, best first."""

    def __init__(self, searches: int, width: int, length: int, length_penalty: float, device: torch.device):
        self.tokens = torch.full((searches, width, length), PAD, device=device)
        self.log_prob = torch.full((searches, width), DEAD, device=device)
        self.score = torch.full((searches, width), DEAD, device=device)
        self.count = torch.zeros(searches, dtype=torch.long, device=device)
        self.length_penalty = length_penalty

    def add(self, searches: torch.Tensor, ranked: Ranked) -> None:
        """Take the captions that end among the first `width` of `ranked`, whose rows are the given searches."""
        width = self.score.shape[1]
        tokens, log_prob = ranked.tokens[:, :width], ranked.log_prob[:, :width]
        length = tokens.shape[2]
        ended = (tokens[:, :, -1] == END) & (log_prob > DEAD)
        if not ended.any():
            return
        log_prob = log_prob.masked_fill(~ended, DEAD)
        tokens = tokens.masked_fill(~ended.unsqueeze(2), PAD)
        tokens = torch.nn.functional.pad(tokens, (0, self.tokens.shape[2] - length), value=PAD)
        score = torch.cat([self.score[searches], normalised(log_prob, length, self.length_penalty)], dim=1)
        score, best = score.sort(dim=1, descending=True, stable=True)
        best = best[:, :width]
        self.score[searches] = score[:, :width]
        self.log_prob[searches] = torch.cat([self.log_prob[searches], log_prob], dim=1).gather(1, best)
        self.tokens[searches] = pick(torch.cat([self.tokens[searches], tokens], dim=1), best)
        self.count[searches] += ended.sum(dim=1)


def explore(
    decoder: StepDecoder,
    state: Any,
    going: torch.Tensor,
    constraints: Constraints,
    width: int,
    length_penalty: float,
    best: Callable[[Live, torch.Tensor, int, torch.Tensor], Ranked],
) -> Finished:
    """Beam searches side by side, each by the rule of `beam`.

    `going` [A]: the numbers of the searches, 0 … A - 1, before whose first token `state` is. `best(live, allowed,
    width, going)` ranks the continuations of those that still go, as `rank` does.
    """
    searches, device = len(going), going.device
    nothing = torch.zeros(searches, 1, device=device)
    live = Live(nothing, nothing, torch.zeros(searches, 1, 0, dtype=torch.long, device=device))
    done = Finished(searches, width, constraints.maximum_words + 1, length_penalty, device)
    fed = torch.full((searches,), START, device=device)
    for _ in range(constraints.maximum_words + 1):
        if not len(going):
            break
        counts = live.score.flatten() > DEAD
        allowed, state = next_log_probs(decoder, fed, state, live.tokens.flatten(0, 1), constraints, counts)
        captions = live.score.shape[1]
        ranked = best(live, allowed.unflatten(0, (-1, captions)), width, going)
        done.add(going, ranked)
        live, source = _advance(ranked, width)
        kept = ((live.score > DEAD).any(dim=1) & (done.count[going] < width)).nonzero().squeeze(1)
        going, live = going[kept], live.select(kept)
        state = decoder.reorder(state, (source[kept] + kept.unsqueeze(1) * captions).flatten())
        fed = live.tokens[:, :, -1].flatten()
    return done


def rank(live: Live, allowed: torch.Tensor, width: int, cost: torch.Tensor | None = None) -> Ranked:
    """The best 2 * width continuations: as at most `width` of them end, `width` that go on are among them.

    `allowed` [A, L, V]: log-probabilities of the next token. `cost` [A, V]: what a token takes from the score besides.
    """
    total = live.score.unsqueeze(2) + allowed
    if cost is not None:
        total -= cost.unsqueeze(1)
    total, size = total.flatten(1), allowed.shape[2]
    score, place = total.topk(min(2 * width, total.shape[1]), dim=1)
    source, word = place // size, place % size
    log_prob = live.log_prob.gather(1, source) + allowed.flatten(1).gather(1, place)
    return Ranked(score, log_prob, torch.cat([pick(live.tokens, source), word.unsqueeze(2)], dim=2), source)


def _advance(ranked: Ranked, width: int) -> tuple[Live, torch.Tensor]:
    """The first `width` continuations that do not end, and which of the live captions [A, width] they continue."""
    ended = ranked.tokens[:, :, -1] == END
    order = ended.int().sort(dim=1, stable=True).indices[:, :width]
    score = ranked.score.masked_fill(ended, DEAD).gather(1, order)
    log_prob = ranked.log_prob.masked_fill(ended, DEAD).gather(1, order)
    return Live(score, log_prob, pick(ranked.tokens, order)), ranked.source.gather(1, order)

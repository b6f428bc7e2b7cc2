"""Greedy and beam search with any causal decoder, batched over photos and beams."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from src.decoding.autoregressive import StepDecoder, constrained_step, generate
from src.decoding.candidates import Candidates, normalised, pick, trimmed
from src.decoding.constraints import Constraints
from src.models.decoder import END, PAD

NEG_INF = float("-inf")


@torch.no_grad()
def greedy(decoder: StepDecoder, features: Any, constraints: Constraints) -> Candidates:
    """The most probable allowed token at each position, until END: one candidate per photo.

    Raises InputError where the decoder's log-probabilities are NaN.
    """
    state = decoder.start(features)
    tokens, log_prob = generate(
        decoder, state, len(features), constraints, lambda log_probs, *_: log_probs.argmax(dim=1), features.device
    )
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1))


@torch.no_grad()
def beam(
    decoder: StepDecoder, features: Any, constraints: Constraints, width: int, length_penalty: float
) -> Candidates:
    """Beam search: the `width` best finished hypotheses of each photo, by descending normalised log-probability.

    For each photo by itself: there is one live hypothesis at first, the empty one. At each step all allowed expansions
    of all live hypotheses are ranked by log-probability. Those among the first `width` that end with END are finished;
    the first `width` that do not end are the next live ones. The search stops once `width` or more hypotheses are
    finished in all, or none is live (after `maximum_words` words only END may follow). Of the finished ones it keeps
    the `width` with the highest log_prob / length ** length_penalty, END counted in the length. Width 1 is greedy.

    Raises InputError where the decoder's log-probabilities are NaN.
    """
    photos = torch.arange(len(features), device=features.device)
    finished = search_beams(decoder, decoder.start(features), photos, constraints, width, length_penalty)
    return Candidates(trimmed(finished.tokens), finished.log_prob)


@dataclass(frozen=True)
class Hypotheses:
    """Live hypotheses of S searches, K each.

    `score` [S, K]: what they are ranked by, -inf where there are fewer than K. `log_prob` [S, K]. `tokens` [S, K, t].
    """

    score: torch.Tensor
    log_prob: torch.Tensor
    tokens: torch.Tensor

    def select(self, index: torch.Tensor) -> "Hypotheses":
        """Those of the searches at `index`."""
        return Hypotheses(self.score[index], self.log_prob[index], self.tokens[index])


@dataclass(frozen=True)
class Expansions(Hypotheses):
    """Hypotheses with one more token, by descending score; `parent` [S, R]: which of the K they expand."""

    parent: torch.Tensor


class Finished:
    """The `width` best finished hypotheses of every search so far, by descending score."""

    def __init__(self, searches: int, width: int, length: int, length_penalty: float, device: torch.device):
        self.tokens = torch.full((searches, width, length), PAD, device=device)
        self.log_prob = torch.full((searches, width), NEG_INF, device=device)
        self.score = torch.full((searches, width), NEG_INF, device=device)
        self.count = torch.zeros(searches, dtype=torch.long, device=device)
        self.length_penalty = length_penalty

    def add(self, searches: torch.Tensor, expansions: Expansions) -> None:
        """Take those that end among the first `width` of `expansions`, whose rows are the given searches."""
        width, length = self.score.shape[1], expansions.tokens.shape[2]
        tokens, log_prob = expansions.tokens[:, :width], expansions.log_prob[:, :width]
        ended = (tokens[:, :, -1] == END) & (log_prob > NEG_INF)
        if not ended.any():
            return
        log_prob = log_prob.masked_fill(~ended, NEG_INF)
        tokens = tokens.masked_fill(~ended.unsqueeze(2), PAD)
        tokens = torch.nn.functional.pad(tokens, (0, self.tokens.shape[2] - length), value=PAD)
        score = torch.cat([self.score[searches], normalised(log_prob, length, self.length_penalty)], dim=1)
        score, order = score.sort(dim=1, descending=True, stable=True)
        order = order[:, :width]
        self.score[searches] = score[:, :width]
        self.log_prob[searches] = torch.cat([self.log_prob[searches], log_prob], dim=1).gather(1, order)
        self.tokens[searches] = pick(torch.cat([self.tokens[searches], tokens], dim=1), order)
        self.count[searches] += ended.sum(dim=1)


def search_beams(
    decoder: StepDecoder,
    state: Any,
    active: torch.Tensor,
    constraints: Constraints,
    width: int,
    length_penalty: float,
    rank: Callable[[Hypotheses, torch.Tensor, int, torch.Tensor], Expansions] | None = None,
) -> Finished:
    """Beam searches in parallel, each as described in `beam`.

    `active` [S]: the searches 0 … S - 1, before whose first token `state` is. `rank(live, log_probs, width, active)`
    returns the best expansions of those that still run, as `best_expansions` does, which it replaces.
    """
    zeros = torch.zeros(len(active), 1, device=active.device)
    live = Hypotheses(zeros, zeros, active.new_zeros(len(active), 1, 0))
    finished = Finished(len(active), width, constraints.maximum_words + 1, length_penalty, active.device)
    while len(active) and live.tokens.shape[2] <= constraints.maximum_words:
        valid, beams = live.score.flatten() > NEG_INF, live.score.shape[1]
        log_probs, state = constrained_step(decoder, state, live.tokens.flatten(0, 1), constraints, valid)
        log_probs = log_probs.unflatten(0, (-1, beams))
        expansions = rank(live, log_probs, width, active) if rank else best_expansions(live, log_probs, width)
        finished.add(active, expansions)
        live, parent = _unfinished(expansions, width)
        running = ((live.score > NEG_INF).any(dim=1) & (finished.count[active] < width)).nonzero().squeeze(1)
        active, live = active[running], live.select(running)
        state = decoder.reorder(state, (parent[running] + running.unsqueeze(1) * beams).flatten())
    return finished


def best_expansions(
    live: Hypotheses, log_probs: torch.Tensor, width: int, penalty: torch.Tensor | None = None
) -> Expansions:
    """The best 2 * width expansions: as at most `width` of them end, `width` that do not are among them.

    `log_probs` [S, K, V]: of the next token. `penalty` [S, V]: what a token takes off the score, but not the log_prob.
    """
    total = live.score.unsqueeze(2) + log_probs
    if penalty is not None:
        total -= penalty.unsqueeze(1)
    total, vocabulary = total.flatten(1), log_probs.shape[2]
    score, index = total.topk(min(2 * width, total.shape[1]), dim=1)
    parent, token = index // vocabulary, index % vocabulary
    log_prob = live.log_prob.gather(1, parent) + log_probs.flatten(1).gather(1, index)
    return Expansions(score, log_prob, torch.cat([pick(live.tokens, parent), token.unsqueeze(2)], dim=2), parent)


def _unfinished(expansions: Expansions, width: int) -> tuple[Hypotheses, torch.Tensor]:
    """The first `width` expansions that do not end, and their parents [S, width]."""
    ended = expansions.tokens[:, :, -1] == END
    order = ended.int().sort(dim=1, stable=True).indices[:, :width]
    score = expansions.score.masked_fill(ended, NEG_INF).gather(1, order)
    log_prob = expansions.log_prob.masked_fill(ended, NEG_INF).gather(1, order)
    return Hypotheses(score, log_prob, pick(expansions.tokens, order)), expansions.parent.gather(1, order)

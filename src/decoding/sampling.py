"""Random captions that are a function of given random numbers.

Temperature as in Ackley, Hinton & Sejnowski 1985, top-k by Fan et al. ("Hierarchical Neural Story Generation", ACL
2018), top-p by Holtzman et al. ("The Curious Case of Neural Text Degeneration", ICLR 2020).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from src.base.randomness import fold_in
from src.decoding.autoregressive import StepDecoder, generate
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import Constraints


def uniforms_for(seed: int, rows: Iterable[int], samples: int, places: int) -> torch.Tensor:
    """Random numbers in [0, 1) for `samples` captions of each photo: float64 [B, samples, places].

    Those of a sample are a function of (seed, row of the photo, number of the sample, places) alone.
    """
    drawn = [np.random.default_rng(fold_in(seed, "sample", int(row))).random((samples, places)) for row in rows]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, samples, places, dtype=torch.float64)


@torch.no_grad()
def sample(
    decoder: StepDecoder,
    features: Any,
    constraints: Constraints,
    uniforms: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Candidates:
    """K random captions for each photo, in the order of their random numbers: not the best first.

    `uniforms` [B, K, T], T > maximum_words, in [0, 1): the token at place t of sample k of photo b is drawn with
    uniforms[b, k, t] from what `filtered` leaves of the allowed distribution, as the first token in the order of the
    vocabulary up to which the cumulative probability is greater. So a sample does not depend on what else is in the
    batch. log_prob is the model's own: without temperature, top-k and top-p.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    photos, samples, places = uniforms.shape
    if photos != len(features) or places <= constraints.maximum_words:
        raise ValueError(f"uniforms {tuple(uniforms.shape)}, {len(features)} photos, {constraints.maximum_words} words")
    numbers = uniforms.to(features.device, torch.float64).flatten(0, 1)

    def choose(allowed: torch.Tensor, rows: torch.Tensor, place: int) -> torch.Tensor:
        return draw(filtered(allowed, temperature, top_k, top_p), numbers[rows, place])

    photo = torch.arange(photos, device=features.device).repeat_interleave(samples)
    state = decoder.reorder(decoder.start(features), photo)
    tokens, log_prob = generate(decoder, state, len(photo), constraints, choose, features.device)
    return Candidates(trimmed(tokens.view(photos, samples, -1)), log_prob.view(photos, samples), "sample")


def filtered(log_probs: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """What sampling draws from, given log_probs [N, V] (-inf: not allowed): weights [N, V], the greatest of a row 1.

    The logarithm of the weights is log_probs / temperature, but for tokens that are filtered out, which have weight 0:
    those that are not among the `top_k` most probable (0: all are), and of the rest those that are not among the fewest
    most probable ones that hold `top_p` of its probability. Of equally probable tokens the first count as more so.
    """
    scaled = (log_probs - log_probs.amax(dim=1, keepdim=True)) / temperature
    if top_k > 0 or top_p < 1:
        ranked, order = scaled.sort(dim=1, descending=True, stable=True)
        if top_k > 0:
            ranked[:, top_k:] = float("-inf")
        share = ranked.double().softmax(dim=1)
        before = share.cumsum(dim=1) - share
        ranked = ranked.masked_fill(before >= top_p, float("-inf"))
        scaled = scaled.scatter(1, order, ranked)
    return scaled.exp()


def draw(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first token whose share of `weights` [N, V], with all before it, is above `numbers` [N] in [0, 1): int64 [N].

    A token of weight 0 is never drawn.
    """
    possible = weights > 0
    cumulative = weights.cumsum(dim=1, dtype=torch.float64).masked_fill(~possible, 0.0)
    above = cumulative > cumulative.amax(dim=1, keepdim=True) * numbers.unsqueeze(1)
    return above.to(torch.uint8).argmax(dim=1)

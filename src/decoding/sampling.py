"""Sampled captions, a deterministic function of given random numbers.

Temperature as in Ackley, Hinton and Sejnowski 1985, top-k by Fan et al. ("Hierarchical Neural Story Generation", ACL
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


def uniforms_for(seed: int, rows: Iterable[int], samples: int, positions: int) -> torch.Tensor:
    """Random numbers in [0, 1) for `samples` captions of each photo: float64 [B, samples, positions].

    Those of a sample are a function of (seed, row of the photo, index of the sample, positions) alone.
    """
    drawn = [np.random.default_rng(fold_in(seed, "sample", int(row))).random((samples, positions)) for row in rows]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, samples, positions, dtype=torch.float64)


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
    """K sampled captions per photo, in the order of their random numbers, not by score.

    `uniforms` [B, K, T], T > maximum_words, in [0, 1). The token at position t of sample k of photo b is drawn from
    `sampling_weights` of the allowed tokens by inverting their cumulative distribution, in the order of the vocabulary,
    at uniforms[b, k, t]. So a sample does not depend on the rest of the batch. log_prob is the model's own: without
    temperature, top-k and top-p.

    Raises InputError where the decoder's log-probabilities are NaN.
    """
    photos, samples, positions = uniforms.shape
    if photos != len(features) or positions <= constraints.maximum_words:
        raise ValueError(f"uniforms {tuple(uniforms.shape)}, {len(features)} photos, {constraints.maximum_words} words")
    numbers = uniforms.to(features.device, torch.float64).flatten(0, 1)

    def choose(log_probs: torch.Tensor, rows: torch.Tensor, position: int) -> torch.Tensor:
        return draw(sampling_weights(log_probs, temperature, top_k, top_p), numbers[rows, position])

    photo = torch.arange(photos, device=features.device).repeat_interleave(samples)
    state = decoder.reorder(decoder.start(features), photo)
    tokens, log_prob = generate(decoder, state, len(photo), constraints, choose, features.device)
    return Candidates(trimmed(tokens.view(photos, samples, -1)), log_prob.view(photos, samples))


def sampling_weights(log_probs: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution to sample from, unnormalised: weights [N, V] from log_probs [N, V] (-inf: not allowed).

    They are exp(log_probs / temperature), scaled to a maximum of 1, with 0 for tokens that are not among the `top_k`
    most probable (0: all are), and of the rest for those outside the nucleus: the fewest most probable tokens that hold
    at least `top_p` of its probability. Ties are broken by the order of the vocabulary.
    """
    scaled = (log_probs - log_probs.amax(dim=1, keepdim=True)) / temperature
    if top_k > 0 or top_p < 1:
        ranked, order = scaled.sort(dim=1, descending=True, stable=True)
        if top_k > 0:
            ranked[:, top_k:] = float("-inf")
        probability = ranked.double().softmax(dim=1)
        before = probability.cumsum(dim=1) - probability
        ranked = ranked.masked_fill(before >= top_p, float("-inf"))
        scaled = scaled.scatter(1, order, ranked)
    return scaled.exp()


def draw(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative share of `weights` [N, V] exceeds `numbers` [N] in [0, 1): int64 [N].

    A token of weight 0 is never drawn.
    """
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    if weights.device.type != "cpu":  # a GPU sums in parallel, and its sums may rise at a weight of 0, or fall
        cumulative = cumulative.masked_fill(weights == 0, 0.0).cummax(dim=1).values
    return torch.searchsorted(cumulative, cumulative[:, -1:] * numbers.unsqueeze(1), right=True).squeeze(1)

"""Decoding of non-autoregressive captioners by iterative refinement: predict all positions, mask the worst, repeat.

Ghazvininejad et al., "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", EMNLP 2019, sections 3.1
to 3.3. For CTC alignments Saharia et al., "Non-Autoregressive Machine Translation with Latent Alignments", EMNLP 2020,
but with predicted tokens masked again as in the former.
"""

from dataclasses import replace
from typing import Any

import torch

from src.decoding.autoregressive import check_numbers
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import IMPOSSIBLE, Constraints, satisfied
from src.decoding.ctc_search import ctc_decode, replace_by_greedy
from src.models.decoder import END, PAD, UNK, NonAutoregressiveDecoder
from src.models.features import Features


@torch.no_grad()
def mask_predict(
    decoder: NonAutoregressiveDecoder,
    features: Features,
    constraints: Constraints,
    passes: int,
    length_beam: int = 1,
    repredict_all: bool = False,
    prefix_beam: int = 0,
    length_penalty: float = 1.0,
) -> Candidates:
    """Captions refined in `passes` passes, by descending normalised log-probability.

    One candidate for each of the `length_beam` most probable lengths that the constraints allow; for a CTC decoder with
    `prefix_beam`, that many for each. In the first pass everything is masked. Pass t + 1 of T masks K (T - t) / T of
    the K words, rounded down, those that were least probable when predicted, and predicts them anew; `repredict_all`
    replaces the other words' predictions too. A CTC decoder continues from its most probable alignment, whose blanks
    are masked as well; without a blank, a word that repeats the one before it is masked and not among the K.

    The constraints hold, and no_adjacent_repeat with them: words predicted independently tend to repeat. A caption that
    violates one is decoded again from left to right, each word the most probable allowed one; for CTC see `ctc_decode`.
    log_prob is the sum of the words' log-probabilities when predicted, and of the length's at END; for CTC the exact
    one given the tokens that were not masked in the last pass.

    Raises InputError where the decoder's log-probabilities are NaN.
    """
    constraints = replace(constraints, no_adjacent_repeat=True)
    encoded = decoder.encode(features)
    words, length_log_probs = top_lengths(decoder.length_log_probs(encoded), constraints, length_beam)
    targets, log_probs = refine(decoder, encoded, words.flatten(), passes, repredict_all)
    check_numbers(log_probs)
    if decoder.blank is None:
        candidates = _best_words(log_probs, words.flatten(), length_log_probs.flatten(), constraints)
    else:
        candidates = ctc_decode(log_probs, targets, decoder.blank, constraints, prefix_beam, length_penalty)
    photos, width = len(features), candidates.tokens.shape[2]
    tokens, log_prob = candidates.tokens.view(photos, -1, width), candidates.log_prob.view(photos, -1)
    return Candidates(tokens, log_prob).ranked(length_penalty)


def top_lengths(log_probs: torch.Tensor, constraints: Constraints, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` most probable allowed numbers of words and their log-probabilities, both [P, W], of [P, lengths]."""
    least, most = max(constraints.minimum_words, 1), min(constraints.maximum_words, log_probs.shape[1] - 1)
    best, index = log_probs[:, least : most + 1].topk(min(width, most + 1 - least), dim=1)
    return index + least, best


def refine(
    decoder: NonAutoregressiveDecoder, encoded: Any, words: torch.Tensor, passes: int, repredict_all: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Iterative refinement of captions of `words` [N] words: the masked target sequence [N, L] and log_probs [N, L, V].

    At each position they are the log-probabilities of the pass that predicted its token.
    """
    targets = decoder.fully_masked(words)
    within = targets != PAD
    log_probs = decoder.predict_masked(encoded, targets)
    for done in range(1, passes):
        tokens, scores = best_tokens(log_probs, within)
        redundant = within & _blank_or_repeated(tokens, decoder.blank)
        is_word = within & ~redundant
        rank = scores.masked_fill(~is_word, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
        masked = redundant | (rank < (is_word.sum(1) * (passes - done) // passes).unsqueeze(1))
        again = decoder.predict_masked(encoded, tokens.masked_fill(masked, decoder.mask))
        log_probs = again if repredict_all else torch.where(masked.unsqueeze(2), again, log_probs)
    return targets, log_probs


def _blank_or_repeated(tokens: torch.Tensor, blank: int | None) -> torch.Tensor:
    """Where `tokens` [N, L] are the blank, or without a blank equal to the token before: bool [N, L]."""
    if blank is not None:
        return tokens == blank
    return torch.cat([torch.zeros_like(tokens[:, :1], dtype=torch.bool), tokens[:, 1:] == tokens[:, :-1]], 1)


def best_tokens(log_probs: torch.Tensor, within: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable word or blank at each position [N, L], PAD where not `within`, and its log-probability."""
    scores, tokens = log_probs[:, :, UNK + 1 :].max(dim=2)
    return torch.where(within, tokens + UNK + 1, PAD), scores


class _LeftToRight:
    """Independent log_probs [N, L, V] of each position as a causal decoder of captions of `words` [N] words.

    Ending elsewhere, or with one of `bad_endings`, counts as impossible. The state is (rows of log_probs, position).
    """

    def __init__(
        self, log_probs: torch.Tensor, words: torch.Tensor, length_log_prob: torch.Tensor, bad_endings: tuple[int, ...]
    ):
        self.log_probs, self.words, self.length_log_prob = log_probs, words, length_log_prob
        self.bad_endings = list(bad_endings)

    def start(self, features: torch.Tensor) -> tuple[torch.Tensor, int]:
        return features, 0

    def step(
        self, tokens: torch.Tensor, state: tuple[torch.Tensor, int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, int]]:
        rows, position = state
        words = self.words[rows]
        log_probs = self.log_probs[rows, min(position, self.log_probs.shape[1] - 1)]
        log_probs[position >= words] = IMPOSSIBLE
        if self.bad_endings:
            is_last = (words - 1 == position).unsqueeze(1)
            log_probs[:, self.bad_endings] = log_probs[:, self.bad_endings].masked_fill(is_last, IMPOSSIBLE)
        log_probs[:, END] = torch.where(words == position, self.length_log_prob[rows], IMPOSSIBLE)
        return log_probs, (rows, position + 1)

    def reorder(self, state: tuple[torch.Tensor, int], index: torch.Tensor) -> tuple[torch.Tensor, int]:
        return state[0][index], state[1]


def _best_words(
    log_probs: torch.Tensor, words: torch.Tensor, length_log_prob: torch.Tensor, constraints: Constraints
) -> Candidates:
    """One candidate [N, 1, T] of `words` [N] words per target sequence, from log_probs [N, L, V]."""
    position = torch.arange(log_probs.shape[1], device=words.device)
    best, scores = best_tokens(log_probs, position < words.unsqueeze(1))
    log_prob = scores.masked_fill(best == PAD, 0.0).sum(1) + length_log_prob
    tokens = best.new_full((len(words), constraints.maximum_words + 1), PAD)
    tokens[:, : best.shape[1]] = best
    tokens.scatter_(1, words.unsqueeze(1), END)
    rows = (~satisfied(tokens, constraints)).nonzero().squeeze(1)
    if len(rows):
        decoder = _LeftToRight(log_probs, words, length_log_prob, constraints.bad_endings)
        replace_by_greedy(decoder, rows, constraints, rows, tokens, log_prob)
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1))

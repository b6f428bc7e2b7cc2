"""Captions of non-autoregressive captioners: all places at once, then those again that the captioner is least sure of.

Ghazvininejad et al., "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", EMNLP 2019, sections 3.1
to 3.3, and Saharia et al., "Non-Autoregressive Machine Translation with Latent Alignments", EMNLP 2020, with masks put
back as in the former.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from src.base.errors import InputError
from src.decoding.beam import greedy
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import IMPOSSIBLE, Constraints, keeps
from src.decoding.ctc_search import decode_alignments
from src.models.decoder import END, PAD, UNK, NonAutoregressiveDecoder
from src.models.features import Features


@torch.no_grad()
def mask_predict(
    decoder: NonAutoregressiveDecoder,
    features: Features,
    constraints: Constraints,
    passes: int,
    length_beam: int = 1,
    everything: bool = False,
    prefix_beam: int = 0,
    length_penalty: float = 1.0,
) -> Candidates:
    """Captions written in `passes` passes, best normalised log-probability first (length_penalty 1: the mean's).

    One candidate for each of the `length_beam` most probable lengths that the constraints allow; with `prefix_beam`,
    for a decoder with a blank, that many for each. The first pass sees no word. Pass t + 1 of T hides K (T - t) / T of
    the K words, rounded down, those that were least probable when they were chosen, and chooses them anew; with
    `everything` all words are the last pass's. A decoder with a blank goes on from its most probable alignment, whose
    blanks are hidden as well; without one, a word that repeats the one before it is hidden and not among the K.

    The constraints hold, and no_echo with them: words chosen apart from one another stutter. Where the symbols break a
    rule, the words are chosen anew from left to right, each the most probable that is allowed; of alignments see
    `decode_alignments`. log_prob is the sum of what each word had when it was chosen, and at END that of the length; or,
    of alignments, the exact one given what was shown.

    Raises InputError where the model's log-probabilities are not numbers.
    """
    constraints = replace(constraints, no_echo=True)
    seen = decoder.encode(features)
    words, chances = likely_lengths(decoder.lengths(seen), constraints, length_beam)
    canvas, log_probs = in_passes(decoder, seen, words.flatten(), passes, everything)
    if log_probs.amax(dim=2).isnan().any():
        raise InputError("the captioner's probabilities are not numbers (NaN): its weights are broken; train it again")
    if decoder.blank is None:
        found = _read_words(log_probs, words.flatten(), chances.flatten(), constraints)
    else:
        found = decode_alignments(log_probs, canvas, decoder.blank, constraints, prefix_beam, length_penalty)
    photos, width = len(features), found.tokens.shape[2]
    several = Candidates(found.tokens.view(photos, -1, width), found.log_prob.view(photos, -1), f"refine{passes}")
    return several.ranked(length_penalty)


def likely_lengths(log_probs: torch.Tensor, constraints: Constraints, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` most probable numbers of words that are allowed, and their log-probabilities [P, L]: both [P, W]."""
    least, most = max(constraints.minimum_words, 1), min(constraints.maximum_words, log_probs.shape[1] - 1)
    chances, index = log_probs[:, least : most + 1].topk(min(width, most + 1 - least), dim=1)
    return index + least, chances


def in_passes(
    decoder: NonAutoregressiveDecoder, seen: Any, words: torch.Tensor, passes: int, everything: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden canvas [N, P] of captions of `words` [N] words, and the log-probabilities [N, P, V] after the passes.

    At each place they are those from which its symbol was chosen.
    """
    canvas = decoder.fully_masked(words)
    within = canvas != PAD
    log_probs = decoder.predict_masked(seen, canvas)
    for done in range(1, passes):
        symbols, scores = best_tokens(log_probs, within)
        silent = within & _says_nothing(symbols, decoder.blank)
        said = within & ~silent
        order = scores.masked_fill(~said, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
        hidden = silent | (order < (said.sum(1) * (passes - done) // passes).unsqueeze(1))
        again = decoder.predict_masked(seen, symbols.masked_fill(hidden, decoder.mask))
        log_probs = again if everything else torch.where(hidden.unsqueeze(2), again, log_probs)
    return canvas, log_probs


def _says_nothing(symbols: torch.Tensor, blank: int | None) -> torch.Tensor:
    """Where `symbols` [N, P] are blank, or without a blank an echo of the symbol before: bool [N, P]."""
    if blank is not None:
        return symbols == blank
    return torch.cat([torch.zeros_like(symbols[:, :1], dtype=torch.bool), symbols[:, 1:] == symbols[:, :-1]], 1)


def best_tokens(log_probs: torch.Tensor, within: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable word (or blank) of each place [N, P], PAD where not `within`, and its log-probability."""
    scores, symbols = log_probs[:, :, UNK + 1 :].max(dim=2)
    return torch.where(within, symbols + UNK + 1, PAD), scores


@dataclass(frozen=True)
class _Places:
    """N captions begun: `log_probs` [N, P, V], how many `words` [N] each is to have, and the `chances` [N] of that."""

    log_probs: torch.Tensor
    words: torch.Tensor
    chances: torch.Tensor
    place: int = 0
    attention: None = None

    def __len__(self) -> int:
        return len(self.words)

    @property
    def device(self) -> torch.device:
        return self.words.device


class _InOrder:
    """The places of canvases one after another, as a captioner that writes word by word.

    What would end a caption elsewhere, or with one of `bad_endings`, counts as impossible.
    """

    def __init__(self, bad_endings: tuple[int, ...]):
        self.bad_endings = list(bad_endings)

    def start(self, features: _Places) -> _Places:
        return features

    def step(self, tokens: torch.Tensor, state: _Places) -> tuple[torch.Tensor, _Places]:
        place, last = state.place, state.log_probs.shape[1] - 1
        log_probs = state.log_probs[:, min(place, last)].clone()
        log_probs[place >= state.words] = IMPOSSIBLE
        if self.bad_endings:
            ending = (state.words - 1 == place).unsqueeze(1)
            log_probs[:, self.bad_endings] = log_probs[:, self.bad_endings].masked_fill(ending, IMPOSSIBLE)
        log_probs[:, END] = torch.where(state.words == place, state.chances, IMPOSSIBLE)
        return log_probs, _Places(state.log_probs, state.words, state.chances, place + 1)

    def reorder(self, state: _Places, index: torch.Tensor) -> _Places:
        return _Places(state.log_probs[index], state.words[index], state.chances[index], state.place)


def _read_words(
    log_probs: torch.Tensor, words: torch.Tensor, chances: torch.Tensor, constraints: Constraints
) -> Candidates:
    """One candidate [N, 1, maximum words + 1] for each canvas of words."""
    place = torch.arange(log_probs.shape[1], device=words.device)
    symbols, scores = best_tokens(log_probs, place < words.unsqueeze(1))
    log_prob = scores.masked_fill(symbols == PAD, 0.0).sum(1) + chances
    tokens = symbols.new_full((len(words), constraints.maximum_words + 1), PAD)
    tokens[:, : symbols.shape[1]] = symbols
    tokens.scatter_(1, words.unsqueeze(1), END)
    broken = (~keeps(tokens, constraints)).nonzero().squeeze(1)
    if len(broken):
        begun = _Places(log_probs[broken], words[broken], chances[broken])
        found = greedy(_InOrder(constraints.bad_endings), begun, constraints)
        tokens[broken] = PAD
        tokens[broken, : found.tokens.shape[2]] = found.tokens[:, 0]
        log_prob[broken] = found.log_prob[:, 0]
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1), "words")

"""From the log-probabilities of alignments to captions (connectionist temporal classification).

Graves, "Supervised Sequence Labelling with Recurrent Neural Networks", 2012, section 7.5: best path decoding, and
prefix search, which asks for the probability of all captions that begin with some words. So asked, an alignment's
captioner writes word by word: the search by prefixes is beam search, and all constraints hold in it.
"""

from dataclasses import dataclass

import torch

from src.decoding.beam import beam, greedy
from src.decoding.candidates import Candidates, trimmed
from src.decoding.constraints import Constraints, keeps
from src.models.attention import Cells
from src.models.ctc import Beginning, bounded, prefix_log_probs
from src.models.decoder import END, PAD, UNK


@dataclass(frozen=True)
class Lattice:
    """Log-probabilities [N, P, V] of each symbol at each place of N canvases, as `bounded` makes them."""

    log_probs: torch.Tensor
    blank: int

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def device(self) -> torch.device:
        return self.log_probs.device


@dataclass(frozen=True)
class PrefixState:
    """`places`: keys are the words' probabilities, values the symbols' log-probabilities, canvas by canvas."""

    beginning: Beginning
    places: Cells
    begun: bool = False
    attention: None = None


class Prefixes:
    """A lattice as a captioner that writes word by word: the exact probability of each next word, and of the end."""

    def start(self, features: Lattice) -> PrefixState:
        """The state before the first word of len(features) captions."""
        log_probs, blank = features.log_probs, features.blank
        places = Cells(log_probs[:, :, :blank].exp(), log_probs, log_probs.new_ones(log_probs.shape[:2]))
        return PrefixState(Beginning.empty(log_probs, blank), places)

    def step(self, tokens: torch.Tensor, state: PrefixState) -> tuple[torch.Tensor, PrefixState]:
        """Feed a word to each caption (int64 [N]; START at first): float32 [N, V], END among them, and state."""
        beginning, places = state.beginning, state.places
        saying = self._column(places, tokens)
        if state.begun:
            beginning = beginning.extend(tokens, saying)
        before = torch.logaddexp(beginning.in_word, beginning.in_blank)[:, :-1]
        most = before.amax(dim=1, keepdim=True)
        weights = (before - most).exp().to(places.keys.dtype).unflatten(0, (len(places), -1))
        log_probs = (weights @ places.keys).flatten(0, 1).double().log() + most
        again = torch.logsumexp(beginning.in_blank[:, :-1] + saying, dim=1, keepdim=True)
        log_probs.scatter_(1, tokens.unsqueeze(1), again)
        log_probs[:, END] = beginning.whole()
        log_probs -= beginning.log_prob.unsqueeze(1)
        return log_probs.float(), PrefixState(beginning, places, True)

    def reorder(self, state: PrefixState, index: torch.Tensor) -> PrefixState:
        """The state of the captions at `index` (int64 [M])."""
        places = state.places.reorder(index, len(state.beginning.last))
        return PrefixState(state.beginning.select(index), places, state.begun)

    def _column(self, places: Cells, words: torch.Tensor) -> torch.Tensor:
        """Log-probability [N, P] of each caption's word at each place."""
        words = words.view(len(places), -1, 1).expand(-1, -1, places.values.shape[1])
        return places.values.transpose(1, 2).gather(1, words).flatten(0, 1)


def collapse(canvas: torch.Tensor, blank: int | None, width: int) -> torch.Tensor:
    """What finished canvases [N, P] say: words, END, PAD [N, width]; more than width - 1 words are cut.

    With a blank, neighbouring places of one symbol say it once.
    """
    is_word = canvas != PAD
    if blank is not None:
        is_word &= canvas != blank
        is_word[:, 1:] &= canvas[:, 1:] != canvas[:, :-1]
    order = is_word.cumsum(1) - 1
    row, place = (is_word & (order < width - 1)).nonzero(as_tuple=True)
    tokens = canvas.new_full((len(canvas), width), PAD)
    tokens[row, order[row, place]] = canvas[row, place]
    ends = is_word.sum(1).clamp(max=width - 1)
    return tokens.scatter_(1, ends.unsqueeze(1), END)


def decode_alignments(
    log_probs: torch.Tensor,
    canvas: torch.Tensor,
    blank: int,
    constraints: Constraints,
    prefix_beam: int,
    length_penalty: float,
) -> Candidates:
    """Candidates [N, K] of canvases [N, P] by log_probs [N, P, V], with their exact log-probabilities.

    prefix_beam 0: what the most probable alignment says; where that breaks a constraint, the most probable allowed
    word after word, by prefixes. Else beam search of that width by prefixes, K = prefix_beam.
    """
    lattice = bounded(log_probs, canvas, blank)
    if prefix_beam:
        return beam(Prefixes(), Lattice(lattice, blank), constraints, prefix_beam, length_penalty)
    symbols = torch.where(canvas == PAD, PAD, lattice[:, :, UNK + 1 :].argmax(dim=2) + UNK + 1)
    tokens = collapse(symbols, blank, max(constraints.maximum_words, canvas.shape[1]) + 1)
    kept = keeps(tokens, constraints)
    tokens = tokens[:, : constraints.maximum_words + 1]
    log_prob = prefix_log_probs(lattice, blank, tokens).sum(1)
    broken = (~kept).nonzero().squeeze(1)
    if len(broken):
        found = greedy(Prefixes(), Lattice(lattice[broken], blank), constraints)
        tokens[broken] = PAD
        tokens[broken, : found.tokens.shape[2]] = found.tokens[:, 0]
        log_prob[broken] = found.log_prob[:, 0]
    return Candidates(trimmed(tokens.unsqueeze(1)), log_prob.unsqueeze(1), "alignments")

"""What a caption may not say, as pure functions on log-probabilities.

A banned token gets -inf; the others keep the log-probability that the model gave them, so that the score of a caption
stays the model's own. A token that the model itself holds impossible counts `IMPOSSIBLE`, not -inf: it is the worst
choice, yet a choice.
"""

from dataclasses import dataclass

import torch

from src.models.decoder import END, PAD, START, UNK

IMPOSSIBLE = -1e4


@dataclass(frozen=True)
class Constraints:
    """Rules for the words of a caption.

    `minimum_words`, `maximum_words`: words before END. `no_repeat`: no run of that many words twice; 0 allows all.
    `bad_endings`: ids of words that may not be the last ("a", "and", "with").
    """

    minimum_words: int = 1
    maximum_words: int = 30
    no_repeat: int = 0
    bad_endings: tuple[int, ...] = ()

    def __post_init__(self):
        if not 0 <= self.minimum_words <= self.maximum_words or self.maximum_words < 1 or self.no_repeat < 0:
            raise ValueError(f"not 0 <= minimum_words <= maximum_words, 1 <= maximum_words, 0 <= no_repeat: {self}")


def constrain(log_probs: torch.Tensor, tokens: torch.Tensor, constraints: Constraints) -> torch.Tensor:
    """Log-probabilities [N, V] of the next token with -inf at what may not follow the words `tokens` [N, t].

    - PAD, START and UNK never.
    - END not before `minimum_words`; nothing but END after `maximum_words`.
    - No word that would complete a run of `no_repeat` words already in `tokens`.
    - No END after a bad ending, and no bad ending as the last word that `maximum_words` leaves room for.
    - Where these leave nothing, END.
    """
    words = tokens.shape[1]
    banned = log_probs.new_zeros(log_probs.shape, dtype=torch.bool)
    for token in (PAD, START, UNK):
        banned[:, token] = True
    if words >= constraints.maximum_words:
        banned[:] = True
    else:
        banned |= repeats(tokens, constraints.no_repeat, log_probs.shape[1])
        banned[:, END] = words < constraints.minimum_words
        if constraints.bad_endings:
            bad = torch.tensor(constraints.bad_endings, device=tokens.device)
            if words > 0:
                banned[:, END] |= torch.isin(tokens[:, -1], bad)
            if words == constraints.maximum_words - 1:
                banned[:, bad] = True
    banned[:, END] &= ~banned.all(dim=1)
    return log_probs.clamp(min=IMPOSSIBLE).masked_fill(banned, float("-inf"))


def repeats(tokens: torch.Tensor, length: int, vocabulary_size: int) -> torch.Tensor:
    """Which next words would repeat a run of `length` words in `tokens` [N, t]: bool [N, V]; none where length is 0."""
    banned = torch.zeros(tokens.shape[0], vocabulary_size, dtype=torch.bool, device=tokens.device)
    if length == 0 or tokens.shape[1] < length:
        return banned
    runs = tokens.unfold(1, length, 1)
    begun = tokens[:, tokens.shape[1] - (length - 1) :]
    same = (runs[:, :, :-1] == begun.unsqueeze(1)).all(dim=2)
    banned.scatter_(1, runs[:, :, -1].masked_fill(~same, PAD), True)  # other runs write to PAD, which is no word
    banned[:, PAD] = False
    return banned

"""What a caption may not say, as pure functions on log-probabilities.

A banned token gets -inf; the others keep the log-probability that the model gave them, so that the score of a caption
stays the model's own. A token that the model itself holds impossible counts `IMPOSSIBLE`, not -inf: it is the worst
choice, yet a choice.
"""

from dataclasses import dataclass

import torch

from src.models.decoder import END, PAD, START, UNK

IMPOSSIBLE = -1e4
_BANNED = float("-inf")
_SPECIAL = len((PAD, START, END, UNK))  # the first ids; words come after them


@dataclass(frozen=True)
class Constraints:
    """Rules for the words of a caption.

    `minimum_words`, `maximum_words`: words before END. `no_repeat`: no run of that many words twice; 0 allows all.
    `bad_endings`: ids of words that may not be the last ("a", "and", "with"), each once. `no_echo`: no word right after
    itself.
    """

    minimum_words: int = 1
    maximum_words: int = 30
    no_repeat_ngram_size: int = 0
    bad_endings: tuple[int, ...] = ()
    no_echo: bool = False

    def __post_init__(self):
        if not 0 <= self.minimum_words <= self.maximum_words or self.maximum_words < 1 or self.no_repeat_ngram_size < 0:
            raise ValueError(f"not 0 <= minimum_words <= maximum_words, 1 <= maximum_words, 0 <= no_repeat: {self}")
        if len(set(self.bad_endings)) < len(self.bad_endings) or any(word < _SPECIAL for word in self.bad_endings):
            raise ValueError(f"bad_endings are not the ids of different words: {self}")


def constrain(log_probs: torch.Tensor, tokens: torch.Tensor, constraints: Constraints) -> torch.Tensor:
    """Log-probabilities [N, V] of the next token with -inf at what may not follow the words `tokens` [N, t].

    - PAD, START and UNK never.
    - END not before `minimum_words`; nothing but END after `maximum_words`.
    - No word that would complete a run of `no_repeat` words already in `tokens`, nor with `no_echo` the last word.
    - No END after a bad ending, and no bad ending as the last word that `maximum_words` leaves room for.

    A vocabulary with few words can leave no way on. So no bad ending is allowed after which only bad endings could
    follow; where no word at all is left, END is; and where every word is a bad ending, none is.
    """
    words, size = tokens.shape[1], log_probs.shape[1]
    bad = constraints.bad_endings if len(constraints.bad_endings) < size - _SPECIAL else ()
    allowed = log_probs.clamp(min=IMPOSSIBLE)
    end = allowed[:, END].clone()
    if words >= constraints.maximum_words:
        allowed.fill_(_BANNED)
    else:
        allowed[:, :_SPECIAL] = _BANNED
        if bad and words == constraints.maximum_words - 1:
            allowed[:, list(bad)] = _BANNED
        allowed.scatter_(1, repeats(tokens, constraints.no_repeat_ngram_size), _BANNED)
        if constraints.no_echo:
            allowed.scatter_(1, tokens[:, words - 1 :], _BANNED)
        # Each word that stands in the caption bans one word at most: with more good words there is always a way on.
        if size - _SPECIAL - len(bad) <= words + 1 + constraints.no_echo:
            allowed.masked_fill_(_traps(tokens, constraints.no_repeat_ngram_size, bad, size), _BANNED)
            stuck = (allowed == _BANNED).all(dim=1)
        else:
            stuck = None
        end = end.masked_fill(~_may_end(tokens, constraints.minimum_words, bad, stuck), _BANNED)
    allowed[:, END] = end
    return allowed


def keeps(captions: torch.Tensor, constraints: Constraints) -> torch.Tensor:
    """Whether whole captions [N, T] (words, END, PAD) keep all rules: bool [N].

    Those that do are what `constrain` allows word by word.
    """
    words = (captions != PAD).sum(dim=1) - 1
    kept = (words >= constraints.minimum_words) & (words <= constraints.maximum_words)
    kept &= ((captions != UNK) & (captions != START)).all(dim=1)
    if constraints.bad_endings:
        last = captions.gather(1, (words - 1).clamp(min=0).unsqueeze(1))
        kept &= (last != torch.tensor(constraints.bad_endings, device=captions.device)).all(dim=1)
    if constraints.no_echo:
        kept &= ((captions[:, 1:] != captions[:, :-1]) | (captions[:, 1:] < _SPECIAL)).all(dim=1)
    if 0 < constraints.no_repeat_ngram_size < captions.shape[1]:
        runs = captions.unfold(1, constraints.no_repeat_ngram_size, 1)
        same = (runs.unsqueeze(2) == runs.unsqueeze(1)).all(dim=3) & (runs[:, :, -1] >= _SPECIAL).unsqueeze(2)
        kept &= ~same.triu(diagonal=1).any(dim=2).any(dim=1)
    return kept


def repeats(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """The words that would repeat a run of `length` words in `tokens` [N, t]: int64 [N, R], filled up with PAD.

    None where length is 0.
    """
    if length == 0 or tokens.shape[1] < length:
        return tokens[:, :0]
    closing = tokens[:, length - 1 :]
    if length == 1:
        return closing
    begun = tokens[:, tokens.shape[1] - (length - 1) :]
    same = (tokens.unfold(1, length, 1)[:, :, :-1] == begun.unsqueeze(1)).all(dim=2)
    return closing.masked_fill(~same, PAD)


def _may_end(tokens: torch.Tensor, minimum_words: int, bad: tuple[int, ...], stuck: torch.Tensor | None):
    """Whether END may follow `tokens` [N, t]: bool [N]. `stuck` [N]: where no word may."""
    words = tokens.shape[1]
    fine = torch.full((len(tokens),), words >= minimum_words, device=tokens.device)
    if bad and words:
        fine &= (tokens[:, -1:] != torch.tensor(bad, device=tokens.device)).all(dim=1)
    return fine if stuck is None else fine | stuck


def _traps(tokens: torch.Tensor, no_repeat_ngram_size: int, bad: tuple[int, ...], size: int) -> torch.Tensor:
    """The bad endings after which every word that is none would repeat a run: bool [N, V]."""
    traps = torch.zeros(len(tokens), size, dtype=torch.bool, device=tokens.device)
    for word in bad:
        banned = torch.zeros_like(traps)
        banned[:, :_SPECIAL] = True
        banned[:, list(bad)] = True
        continued = torch.nn.functional.pad(tokens, (0, 1), value=word)
        traps[:, word] = banned.scatter_(1, repeats(continued, no_repeat_ngram_size), True).all(dim=1)
    return traps

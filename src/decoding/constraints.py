"""Hard constraints on captions, as pure functions on log-probabilities.

Forbidden tokens get -inf; the others keep the model's log-probability, so that a caption's score is the model's own. A
token that the model itself rules out counts `IMPOSSIBLE`, not -inf: it may still be chosen, but last of all.
"""

from dataclasses import dataclass

import torch

from src.models.decoder import END, PAD, START, UNK

IMPOSSIBLE = -1e4
_FORBIDDEN = float("-inf")
_SPECIAL = len((PAD, START, END, UNK))  # the first ids; words come after them


@dataclass(frozen=True)
class Constraints:
    """Rules for the words of a caption.

    `minimum_words`, `maximum_words`: words before END. `no_repeat_ngram_size`: no n-gram of that size twice; 0 allows
    all. `bad_endings`: distinct ids of words that may not be the last ("a", "and", "with"). `no_adjacent_repeat`: no
    word twice in a row.
    """

    minimum_words: int = 1
    maximum_words: int = 30
    no_repeat_ngram_size: int = 0
    bad_endings: tuple[int, ...] = ()
    no_adjacent_repeat: bool = False


def constrain(log_probs: torch.Tensor, tokens: torch.Tensor, constraints: Constraints) -> torch.Tensor:
    """Log-probabilities [N, V] of the next token, -inf at what may not follow the words `tokens` [N, t].

    - PAD, START and UNK never.
    - END not before `minimum_words`; nothing but END after `maximum_words`.
    - No word that would complete an n-gram already in `tokens`, nor, with `no_adjacent_repeat`, the last word.
    - No END after a bad ending, and no bad ending as the last word that `maximum_words` leaves room for.

    In a small vocabulary these rules can leave no continuation. So a bad ending is forbidden where only bad endings
    could follow it; where no word is left, END is allowed; and where every word is a bad ending, none counts as one.
    """
    words, size = tokens.shape[1], log_probs.shape[1]
    bad = constraints.bad_endings if len(constraints.bad_endings) < size - _SPECIAL else ()
    allowed = log_probs.clamp(min=IMPOSSIBLE)
    end = allowed[:, END].clone()
    if words >= constraints.maximum_words:
        allowed.fill_(_FORBIDDEN)
    else:
        allowed[:, :_SPECIAL] = _FORBIDDEN
        if bad and words == constraints.maximum_words - 1:
            allowed[:, list(bad)] = _FORBIDDEN
        allowed.scatter_(1, repeating_words(tokens, constraints.no_repeat_ngram_size), _FORBIDDEN)
        if constraints.no_adjacent_repeat:
            allowed.scatter_(1, tokens[:, words - 1 :], _FORBIDDEN)
        may_end = torch.full((len(tokens),), words >= constraints.minimum_words, device=tokens.device)
        if bad and words:
            may_end &= (tokens[:, -1:] != torch.tensor(bad, device=tokens.device)).all(dim=1)
        # Each word of the caption forbids at most one word: with more good words there is always a continuation.
        if size - _SPECIAL - len(bad) <= words + 1 + constraints.no_adjacent_repeat:
            allowed.masked_fill_(_dead_ends(tokens, constraints.no_repeat_ngram_size, bad, size), _FORBIDDEN)
            may_end |= (allowed == _FORBIDDEN).all(dim=1)
        end = end.masked_fill(~may_end, _FORBIDDEN)
    allowed[:, END] = end
    return allowed


def satisfied(captions: torch.Tensor, constraints: Constraints) -> torch.Tensor:
    """Whether complete captions [N, T] (words, END, PAD) satisfy all rules: bool [N].

    These are the captions whose every token `constrain` allows.
    """
    words = (captions != PAD).sum(dim=1) - 1
    valid = (words >= constraints.minimum_words) & (words <= constraints.maximum_words)
    valid &= ((captions != UNK) & (captions != START)).all(dim=1)
    if constraints.bad_endings:
        last = captions.gather(1, (words - 1).clamp(min=0).unsqueeze(1))
        valid &= (last != torch.tensor(constraints.bad_endings, device=captions.device)).all(dim=1)
    if constraints.no_adjacent_repeat:
        valid &= ((captions[:, 1:] != captions[:, :-1]) | (captions[:, 1:] < _SPECIAL)).all(dim=1)
    if 0 < constraints.no_repeat_ngram_size < captions.shape[1]:
        ngrams = captions.unfold(1, constraints.no_repeat_ngram_size, 1)
        of_words = (ngrams[:, :, -1] >= _SPECIAL).unsqueeze(2)  # the others reach into END or PAD
        same = (ngrams.unsqueeze(2) == ngrams.unsqueeze(1)).all(dim=3) & of_words
        valid &= ~same.triu(diagonal=1).any(dim=2).any(dim=1)
    return valid


def repeating_words(tokens: torch.Tensor, size: int) -> torch.Tensor:
    """The words that would repeat an n-gram of `size` words in `tokens` [N, t]: int64 [N, R], filled up with PAD.

    None where size is 0.
    """
    if size == 0 or tokens.shape[1] < size:
        return tokens[:, :0]
    final = tokens[:, size - 1 :]
    if size == 1:
        return final
    suffix = tokens[:, tokens.shape[1] - (size - 1) :]
    same = (tokens.unfold(1, size, 1)[:, :, :-1] == suffix.unsqueeze(1)).all(dim=2)
    return final.masked_fill(~same, PAD)


def _dead_ends(tokens: torch.Tensor, no_repeat_ngram_size: int, bad: tuple[int, ...], size: int) -> torch.Tensor:
    """The bad endings after which every other word would repeat an n-gram: bool [N, V]."""
    dead = torch.zeros(len(tokens), size, dtype=torch.bool, device=tokens.device)
    for word in bad:
        forbidden = torch.zeros_like(dead)
        forbidden[:, :_SPECIAL] = True
        forbidden[:, list(bad)] = True
        extended = torch.nn.functional.pad(tokens, (0, 1), value=word)
        dead[:, word] = forbidden.scatter_(1, repeating_words(extended, no_repeat_ngram_size), True).all(dim=1)
    return dead

"""Random decoders, and slow references of the searches: one photo, one caption and one token at a time, no tensors."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from src.decoding.constraints import Constraints
from src.models.captioner import DECODERS, build_decoder
from src.models.decoder import END, PAD, START, UNK, CausalDecoder, TeacherForced, shift_right
from src.models.features import Features
from src.settings.schema import DecoderSettings

VOCABULARY = 12
CAUSAL = sorted(name for name, kind in DECODERS.items() if issubclass(kind, CausalDecoder))
NextLogProbs = Callable[[list[int]], list[float]]
"""Of one photo: the log-probabilities of the next token after a prefix."""


def photos(count: int, width: int = 6, seed: int = 0) -> Features:
    """Random photos of 2 × 2 cells; the first feature of photo b is b."""
    generator = torch.Generator().manual_seed(seed)
    grid, pooled = (torch.randn(count, *size, generator=generator) for size in ((4, width), (width,)))
    pooled[:, 0] = torch.arange(count)
    return Features(grid, torch.ones(count, 4, dtype=torch.bool), (2, 2), pooled)


def random_decoder(seed: int, name: str = "recurrent", width: int = 6) -> CausalDecoder:
    """With larger output weights than at the start of training, when predictions are nearly uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = {"cell": ("gru", "lstm")[seed % 2], "image": ("every", "first")[seed % 2]}
        small = {"hidden": 16, "embedding": 8, "attention": 8, "feedforward": 16}
        decoder = build_decoder(DecoderSettings(name=name, **small, **kind), VOCABULARY, width).eval()
        for parameter in decoder.parameters():
            if parameter.shape[:1] == (VOCABULARY,):
                parameter.data *= 4
        return decoder


@dataclass(frozen=True)
class HashState:
    """A hash [N] of all tokens fed to each caption."""

    hash: torch.Tensor
    attention: None = None


class Scrambled(CausalDecoder):
    """Unrelated log-probabilities after any two different prefixes; `end` is added to the logit of END.

    `rows`: the batch size of each of its steps so far.
    """

    def __init__(self, seed: int, vocabulary: int = VOCABULARY, scale: float = 2.0, end: float = 0.0):
        super().__init__()
        logits = torch.randn(9973, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
        logits[:, END] += end
        self.table = logits.log_softmax(dim=1)
        self.rows: list[int] = []

    def start(self, features):
        return HashState(features.pooled[:, 0].long())

    def step(self, tokens, state):
        self.rows.append(len(tokens))
        row = (state.hash * 131 + tokens + 7) % len(self.table)
        return self.table[row], HashState(row)

    def reorder(self, state, index):
        return HashState(state.hash[index])

    def teacher_forced(self, features, inputs, photo=None, batch_sizes=None):
        state, steps = self.start(features), []
        for position in range(inputs.shape[1]):
            log_probs, state = self.step(inputs[:, position], state)
            steps.append(log_probs)
        return TeacherForced(torch.stack(steps, dim=1), torch.nn.Identity())


def teacher_forced_log_probs(decoder: CausalDecoder, features: Features, captions: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of every token at each position of `captions` [B, T]: float32 [B, T, V]."""
    return decoder.teacher_forced(features, shift_right(captions)).logits.float().log_softmax(-1)


def next_log_probs_of(decoder: CausalDecoder, features: Features, row: int) -> NextLogProbs:
    """By teacher forcing of the prefix and one more token: independent of step and reorder."""
    photo, cache = features.select(torch.tensor([row])), {}

    def log_probs(words: list[int]) -> list[float]:
        if tuple(words) not in cache:
            with torch.no_grad():
                cache[tuple(words)] = teacher_forced_log_probs(decoder, photo, torch.tensor([[*words, END]]))[
                    0, -1
                ].tolist()
        return cache[tuple(words)]

    return log_probs


def repeats_ngram(words: tuple[int, ...], word: int, size: int) -> bool:
    """Whether `word` would complete an n-gram that `words` has already."""
    ngrams = {words[i : i + size] for i in range(len(words) - size + 1)}
    return size > 0 and (*words, word)[-size:] in ngrams


def allowed_tokens(words: list[int], rules: Constraints, vocabulary: int = VOCABULARY) -> set[int]:
    """The rules, read off the docstring of `constrain` one token at a time."""
    return _allowed(tuple(words), rules, vocabulary)


@functools.cache
def _allowed(words: tuple[int, ...], rules: Constraints, vocabulary: int) -> set[int]:
    if len(words) >= rules.maximum_words:
        return {END}
    every = set(range(vocabulary)) - {PAD, START, END, UNK}
    bad = set(rules.bad_endings) if every - set(rules.bad_endings) else set()
    allowed = set()
    for word in every:
        is_last = len(words) + 1 == rules.maximum_words
        continues = any(not repeats_ngram((*words, word), good, rules.no_repeat_ngram_size) for good in every - bad)
        repeated = rules.no_adjacent_repeat and words[-1:] == (word,)
        if (
            not repeated
            and not repeats_ngram(words, word, rules.no_repeat_ngram_size)
            and (word not in bad or (continues and not is_last))
        ):
            allowed.add(word)
    if not allowed or (len(words) >= rules.minimum_words and not (words and words[-1] in bad)):
        allowed.add(END)
    return allowed


def plain_greedy(after: NextLogProbs, rules: Constraints) -> tuple[float, list[int]]:
    """log_prob and tokens."""
    tokens, log_prob = [], 0.0
    while not tokens or tokens[-1] != END:
        log_probs = after(tokens)
        best = max(sorted(allowed_tokens(tokens, rules)), key=lambda token: log_probs[token])
        tokens, log_prob = [*tokens, best], log_prob + log_probs[best]
    return log_prob, tokens


def plain_beam(after: NextLogProbs, rules: Constraints, width: int, penalty: float) -> list[tuple]:
    """The rule in the docstring of `beam`: (score, log_prob, tokens), the best first."""
    live, finished = [(0.0, [])], []
    while live and len(finished) < width:
        continued = []
        for log_prob, words in live:
            log_probs = after(words)
            continued += [(log_prob + log_probs[token], [*words, token]) for token in allowed_tokens(words, rules)]
        continued.sort(key=lambda pair: -pair[0])
        for log_prob, tokens in continued[:width]:
            if tokens[-1] == END:
                finished.append((log_prob / len(tokens) ** penalty, log_prob, tokens))
        live = [pair for pair in continued if pair[1][-1] != END][:width]
    return sorted(finished, key=lambda each: -each[0])[:width]


def plain_diverse(
    after: NextLogProbs, rules: Constraints, width: int, penalty: float, groups: int, diversity: float
) -> list[tuple]:
    """The rule in the docstring of `diverse_beam`: (score, log_prob, tokens), the best first."""
    live, finished = [[(0.0, 0.0, [])] for _ in range(groups)], [[] for _ in range(groups)]
    narrow = width // groups
    while any(live):
        taken = Counter()
        for group in range(groups):
            continued = []
            for rank, log_prob, words in live[group]:
                log_probs = after(words)
                for token in allowed_tokens(words, rules):
                    paid = log_probs[token] - diversity * taken[token]
                    continued.append((rank + paid, log_prob + log_probs[token], [*words, token]))
            continued.sort(key=lambda triple: -triple[0])
            taken.update(tokens[-1] for _, _, tokens in continued[:narrow])
            for _, log_prob, tokens in continued[:narrow]:
                if tokens[-1] == END:
                    finished[group].append((log_prob / len(tokens) ** penalty, log_prob, tokens))
            live[group] = [triple for triple in continued if triple[2][-1] != END][:narrow]
            if len(finished[group]) >= narrow:
                live[group] = []
    best = [each for group in finished for each in sorted(group, key=lambda each: -each[0])[:narrow]]
    return sorted(best, key=lambda each: -each[0])


def plain_weights(
    log_probs: list[float], allowed: set[int], temperature: float, top_k: int, top_p: float
) -> dict[int, float]:
    """Probabilities that sampling draws from, by token."""
    weight = {token: math.exp(log_probs[token] / temperature) for token in allowed}
    ranked = sorted(allowed, key=lambda token: (-weight[token], token))[: top_k or None]
    total, kept, held = sum(weight[token] for token in ranked), [], 0.0
    for token in ranked:
        if held < top_p:
            kept.append(token)
        held += weight[token] / total
    total = sum(weight[token] for token in kept)
    return {token: weight[token] / total for token in sorted(kept)}


def plain_sample(after: NextLogProbs, rules: Constraints, numbers: list[float], *filters) -> tuple[float, list[int]]:
    """log_prob and tokens of the caption that the random numbers draw."""
    tokens, log_prob = [], 0.0
    while not tokens or tokens[-1] != END:
        log_probs, number = after(tokens), numbers[len(tokens)]
        weights = plain_weights(log_probs, allowed_tokens(tokens, rules), *filters)
        reached = itertools.accumulate(weights.values())
        drawn = next((token for token, held in zip(weights, reached, strict=True) if number < held), max(weights))
        tokens, log_prob = [*tokens, drawn], log_prob + log_probs[drawn]
    return log_prob, tokens


def as_list(tokens: torch.Tensor) -> list[int]:
    """Tokens without PAD."""
    return [token for token in tokens.tolist() if token != PAD]

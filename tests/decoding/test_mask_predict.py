"""Iterative refinement against a plain reference: one photo and one position at a time."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch

from src.decoding.constraints import Constraints
from src.decoding.mask_predict_search import mask_predict
from src.models.ctc import ctc_token_log_probs
from src.models.decoder import END, UNK
from tests.helpers.plain_ctc import collapsed, random_decoder
from tests.helpers.plain_decoding import VOCABULARY, allowed_tokens, as_list, photos, plain_greedy

pytestmark = pytest.mark.usefixtures("seeded")

RULES = (
    Constraints(1, 9),
    Constraints(3, 6, no_repeat_ngram_size=2, bad_endings=(5, 7)),
    Constraints(2, 5, no_repeat_ngram_size=1, bad_endings=(4,)),
)


def plain_refinement(decoder, features, row: int, words: int, passes: int, repredict_all: bool):
    """The docstring of `mask_predict`, position by position: tokens, and the log-probabilities they are taken from."""
    encoded = decoder.encode(features.select(torch.tensor([row])))
    tokens, latest = [decoder.mask] * int(decoder.target_length(torch.tensor(words))), {}
    for done in range(passes):
        if done:
            redundant = [p for p, token in enumerate(tokens) if token == decoder.blank or (
                decoder.blank is None and p and token == tokens[p - 1]
            )]  # fmt: skip
            others = [p for p in range(len(tokens)) if p not in redundant]
            others.sort(key=lambda p: max(latest[p][UNK + 1 :]))
            for position in redundant + others[: len(others) * (passes - done) // passes]:
                tokens[position] = decoder.mask
        log_probs = decoder.predict_masked(encoded, torch.tensor([tokens]))[0].tolist()
        for position, token in enumerate(tokens):
            if token == decoder.mask or repredict_all:
                latest[position] = log_probs[position]
        for position in range(len(tokens)):
            tokens[position] = max(range(UNK + 1, len(latest[position])), key=lambda s: latest[position][s])
    return tokens, [latest[position] for position in range(len(tokens))]


def plain_caption(words: list[int], log_probs: list[list[float]], length_log_prob: float, rules: Constraints):
    """log_prob and tokens: the words, or where they violate a rule the best allowed ones from left to right."""
    if all(token in allowed_tokens(words[:position], rules) for position, token in enumerate([*words, END])):
        return sum(log_probs[position][word] for position, word in enumerate(words)) + length_log_prob, [*words, END]

    def after(prefix: list[int]) -> list[float]:
        position = len(prefix)
        following = list(log_probs[position]) if position < len(log_probs) else [-1e4] * VOCABULARY
        for word in rules.bad_endings if position == len(log_probs) - 1 else ():
            following[word] = -1e4
        following[END] = length_log_prob if position == len(log_probs) else -1e4
        return following

    return plain_greedy(after, rules)


@pytest.mark.parametrize("repredict_all", [False, True])
@torch.no_grad()
def test_refined_words_equal_the_plain_reference(repredict_all):
    features, changed = photos(4), 0
    for seed, passes, rules in itertools.product(range(2), (1, 3, 4), RULES):
        decoder = random_decoder("mask_predict", seed, length="classification")
        strict = replace(rules, no_adjacent_repeat=True)
        found = mask_predict(decoder, features, rules, passes, 3, repredict_all, 0, 1.0)
        lengths = decoder.length_log_probs(decoder.encode(features))
        for row in range(4):
            allowed = lengths[row, rules.minimum_words : rules.maximum_words + 1]
            expected = []
            for words in allowed.topk(3).indices.add(rules.minimum_words).tolist():
                refined, log_probs = plain_refinement(decoder, features, row, words, passes, repredict_all)
                log_prob, tokens = plain_caption(refined, log_probs, lengths[row, words].item(), strict)
                changed += tokens[:-1] != refined
                expected.append((log_prob / len(tokens), log_prob, tokens))
            expected.sort(key=lambda each: -each[0])
            assert [as_list(tokens) for tokens in found.tokens[row]] == [tokens for _, _, tokens in expected]
            assert found.log_prob[row].tolist() == pytest.approx([each[1] for each in expected], abs=1e-3)
    assert 0 < changed < 2 * 3 * 3 * 4 * 3, "only one of the two ways to decode was tried"


def next_log_probs(emissions: torch.Tensor, blank: int, prefix: list[int]) -> list[float]:
    """Of every next token, each by the probability of all captions with that prefix."""
    tokens = torch.tensor([[*prefix, token] for token in range(blank)])
    return ctc_token_log_probs(emissions.expand(blank, -1, -1), blank, tokens)[:, -1].tolist()


@torch.no_grad()
def test_refined_alignments_equal_the_plain_reference():
    """The best path of the last pass with its exact probability, or, where it violates a rule, prefix by prefix."""
    features, unchanged = photos(6), 0
    for seed, rules in itertools.product(range(3), RULES):
        decoder, strict = random_decoder("ctc_mask_predict", seed), replace(rules, no_adjacent_repeat=True)
        found = mask_predict(decoder, features, rules, 3)
        lengths = decoder.length_log_probs(decoder.encode(features))
        best = lengths[:, rules.minimum_words : rules.maximum_words + 1].argmax(1) + rules.minimum_words
        for row in range(6):
            refined, log_probs = plain_refinement(decoder, features, row, int(best[row]), 3, False)
            emissions, tokens = torch.tensor([log_probs]).clamp(min=-1e4), [*collapsed(refined, decoder.blank), END]
            if all(token in allowed_tokens(tokens[:position], strict) for position, token in enumerate(tokens)):
                unchanged += 1
            else:
                tokens = plain_greedy(functools.partial(next_log_probs, emissions, decoder.blank), strict)[1]
            assert as_list(found.tokens[row, 0]) == tokens
            exact = ctc_token_log_probs(emissions, decoder.blank, torch.tensor([tokens])).sum()
            torch.testing.assert_close(found.log_prob[row, 0], exact, atol=1e-3, rtol=1e-4)
    assert 0 < unchanged < 54, "only one of the two ways to decode was tried"


@pytest.mark.parametrize("search", ["words", "best_path", "prefix_beam"])
@torch.no_grad()
def test_every_caption_satisfies_the_constraints(search):
    name, width = ("mask_predict" if search == "words" else "ctc_mask_predict"), 3 * (search == "prefix_beam")
    for seed, rules in itertools.product(range(3), RULES):
        decoder, strict = random_decoder(name, seed, vocabulary=9), replace(rules, no_adjacent_repeat=True)
        found = mask_predict(decoder, photos(8), rules, 3, 2, seed == 2, width)
        assert found.tokens.shape[:2] == (8, 2 * max(width, 1)) and found.log_prob[:, 0].isfinite().all()
        assert found.scores(1.0).diff(dim=1).nan_to_num(0.0).le(1e-6).all()
        for tokens in map(as_list, found.tokens.flatten(0, 1)):
            for position, token in enumerate(tokens):
                assert token in allowed_tokens(tokens[:position], strict, 9), f"{tokens}, {rules}"

"""Constraints against rules read off one token at a time, and in every search."""

import itertools

import pytest
import torch

from src.decoding.beam import beam, greedy
from src.decoding.constraints import IMPOSSIBLE, Constraints, constrain, repeating_words, satisfied
from src.decoding.diverse_beam import diverse_beam
from src.decoding.sampling import sample, uniforms_for
from src.models.decoder import END, PAD, UNK
from tests.helpers.plain_ctc import captions
from tests.helpers.plain_decoding import Scrambled, allowed_tokens, as_list, photos

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def test_constrain_allows_what_the_rules_allow_token_by_token():
    """Vocabularies of 1, 2, 4 and 40 words: in small ones the rules leave few tokens or none."""
    generator = torch.Generator().manual_seed(0)
    choices = itertools.product((0, 3), (4, 6), (0, 1, 2, 3), ((), (4,), (4, 5)), (1, 2, 4, 40))
    for minimum, maximum, no_repeat, bad, words in choices:
        rules, size = Constraints(minimum, maximum, no_repeat, bad[:words]), UNK + 1 + words
        for length in range(rules.maximum_words + 1):
            tokens = torch.randint(UNK + 1, size, (4, length), generator=generator)
            log_probs = torch.randn(4, size, generator=generator).log_softmax(dim=1)
            result = constrain(log_probs, tokens, rules)
            for row in range(4):
                allowed = sorted(allowed_tokens(tokens[row].tolist(), rules, size))
                assert (result[row] > float("-inf")).nonzero().flatten().tolist() == allowed
                assert torch.equal(result[row, allowed], log_probs[row, allowed])


@pytest.mark.parametrize("words", [1, 2, 3, 5])
def test_no_search_violates_a_rule_in_a_small_vocabulary(words):
    """Except minimum_words, where no word is left, and bad endings, where all words are."""
    size, features = UNK + 1 + words, photos(4)
    for seed, (no_repeat, bad) in enumerate(itertools.product((0, 1, 2), range(words + 1))):
        rules = Constraints(2, 6, no_repeat, tuple(range(UNK + 1, UNK + 1 + bad)))
        decoder = Scrambled(seed, size)
        drawn = sample(decoder, features, rules, uniforms_for(seed, range(4), 4, 7), 1.0, 3, 0.9)
        diverse = diverse_beam(decoder, features, rules, 4, 0.7, 2, 1.0)
        for found in (greedy(decoder, features, rules), beam(decoder, features, rules, 3, 0.7), diverse, drawn):
            assert (found.log_prob[:, 0] > float("-inf")).all()
            for tokens in map(as_list, found.tokens[found.log_prob > float("-inf")]):
                caption = tokens[:-1]
                ngrams = [tuple(caption[i : i + no_repeat]) for i in range(len(caption) - no_repeat + 1)]
                assert tokens[-1] == END and set(caption) <= set(range(UNK + 1, size)) and 1 <= len(caption) <= 6
                assert no_repeat == 0 or len(set(ngrams)) == len(ngrams)
                assert bad == words or caption[-1] not in rules.bad_endings
                assert len(caption) >= 2 or no_repeat == 1


def test_repeating_words_are_those_that_complete_an_ngram_again():
    tokens = torch.tensor([[4, 5, 6, 4, 5], [4, 5, 6, 7, 8]])
    assert repeating_words(tokens, 3).tolist() == [[6, PAD, PAD], [PAD, PAD, PAD]]
    assert repeating_words(tokens, 1).tolist() == tokens.tolist()
    assert repeating_words(tokens, 0).numel() == 0 and repeating_words(tokens[:, :2], 3).numel() == 0


def test_a_token_that_the_model_rules_out_may_still_be_chosen():
    log_probs = torch.full((1, 6), float("-inf"))
    log_probs[0, PAD] = 0.0
    result = constrain(log_probs, torch.tensor([[4]]), Constraints(0, 1))
    assert result[0, END] == IMPOSSIBLE


def test_satisfied_captions_are_those_whose_every_token_is_allowed():
    tokens = captions([3, 5, 6, 2, 4] * 60, vocabulary=7)
    for rules in (
        Constraints(1, 9),
        Constraints(3, 6, no_repeat_ngram_size=2, bad_endings=(5, 7)),
        Constraints(2, 5, no_repeat_ngram_size=1, bad_endings=(4,)),
        Constraints(0, 4, no_repeat_ngram_size=3),
        Constraints(1, 6, 2, (6,)),
        Constraints(0, 6, no_adjacent_repeat=True),
    ):
        expected = []
        for row in tokens:
            words = as_list(row)
            expected.append(all(token in allowed_tokens(words[:i], rules, 12) for i, token in enumerate(words)))
        assert satisfied(tokens, rules).tolist() == expected and len(set(expected)) == 2

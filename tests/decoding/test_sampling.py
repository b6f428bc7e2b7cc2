"""Sampling against a slow reference, exact probabilities and enumeration."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from src.decoding.constraints import Constraints
from src.decoding.sampling import draw, sample, sampling_weights, uniforms_for
from src.models.decoder import END, UNK
from tests.helpers import plain_decoding as plain
from tests.helpers.plain_decoding import Scrambled, allowed_tokens, as_list, next_log_probs_of, photos

pytestmark = pytest.mark.usefixtures("one_thread")

STRICT = Constraints(minimum_words=2, maximum_words=6, no_repeat_ngram_size=2, bad_endings=(4, 5, 6))
FILTERS = [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.5, 3, 1.0), (1.0, 0, 0.7), (2.0, 4, 0.8), (0.05, 0, 1.0)]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_samples_equal_the_plain_reference(filters):
    lengths = set()
    for seed in range(8):
        decoder = Scrambled(seed) if seed % 2 else plain.random_decoder(seed // 2)
        features, uniforms = photos(3), uniforms_for(seed, range(3), 5, 7)
        found = sample(decoder, features, STRICT, uniforms, *filters)
        for row in range(3):
            after = next_log_probs_of(decoder, features, row)
            for number in range(5):
                log_prob, tokens = plain.plain_sample(after, STRICT, uniforms[row, number].tolist(), *filters)
                assert as_list(found.tokens[row, number]) == tokens
                assert found.log_prob[row, number].item() == pytest.approx(log_prob, abs=1e-4)
                lengths.add(len(tokens))
    assert len(lengths) > 3


@pytest.mark.parametrize("filters", FILTERS[:5], ids=str)
def test_captions_come_as_often_as_they_are_probable(filters):
    """20,000 samples against the exact probability of every caption: a chi-square test."""
    rules, count = Constraints(1, 3, 1, (4,)), 20_000
    decoder, features = Scrambled(1, vocabulary=8, scale=1.0), photos(1)
    after, exact = next_log_probs_of(decoder, features, 0), Counter()
    begun = [((), 1.0)]
    while begun:
        words, probability = begun.pop()
        weights = plain.plain_weights(after(list(words)), allowed_tokens(list(words), rules, 8), *filters)
        for token, weight in weights.items():
            if token == END:
                exact[words] += probability * weight
            else:
                begun.append(((*words, token), probability * weight))
    found = sample(decoder, features, rules, uniforms_for(3, [0], count, 4), *filters)
    seen = Counter(tuple(as_list(tokens)[:-1]) for tokens in found.tokens[0])
    assert seen.keys() <= exact.keys() and sum(exact.values()) == pytest.approx(1.0)
    common = [words for words, probability in exact.items() if probability * count >= 5]
    rare = len(exact) > len(common)
    expected = [exact[words] * count for words in common] + [
        count - sum(exact[words] for words in common) * count
    ] * rare
    observed = [seen[words] for words in common] + [count - sum(seen[words] for words in common)] * rare
    assert len(common) > 5
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


def test_top_k_and_top_p_keep_what_enumeration_keeps():
    """top_p keeps the smallest set of that probability; of equally small ones the most probable."""
    generator = torch.Generator().manual_seed(0)
    log_probs = (torch.randn(30, 7, generator=generator) * 1.5).log_softmax(dim=1)
    for top_p, row in itertools.product((0.2, 0.5, 0.9, 0.99), log_probs):
        sets = [chosen for size in range(1, 8) for chosen in itertools.combinations(range(7), size)]
        held = {chosen: row[list(chosen)].exp().sum().item() for chosen in sets}
        best = min((chosen for chosen in sets if held[chosen] >= top_p), key=lambda c: (len(c), -held[c]))
        assert sampling_weights(row[None], 1.0, 0, top_p)[0].nonzero().flatten().tolist() == list(best)
    for top_k, row in itertools.product((1, 3, 7, 50), log_probs):
        best = sorted(range(7), key=lambda token: -row[token])[:top_k]
        assert sampling_weights(row[None], 0.5, top_k, 1.0)[0].nonzero().flatten().tolist() == sorted(best)
    ties = sampling_weights(torch.full((1, 8), 0.125).log(), 1.0, 4, 0.5)  # half of four
    assert ties[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_sample_is_a_function_of_seed_photo_and_index_alone():
    rows = [12, 5, 31, 8]
    every = uniforms_for(3, rows, 6, 7)
    assert torch.equal(every[2:3, :2], uniforms_for(3, [31], 2, 7))
    assert len({tuple(numbers) for numbers in every.flatten(0, 1).tolist()}) == 24
    assert not torch.equal(every, uniforms_for(4, rows, 6, 7)) and every.min() >= 0 and every.max() < 1
    decoder, features = plain.random_decoder(2), photos(4)
    found = sample(decoder, features, STRICT, every)
    assert len({tuple(tokens) for tokens in found.tokens[1].tolist()}) > 1
    for row in range(4):
        alone = sample(
            decoder, features.select(torch.tensor([row])), STRICT, uniforms_for(3, rows[row : row + 1], 2, 7)
        )
        assert [as_list(t) for t in alone.tokens[0]] == [as_list(t) for t in found.tokens[row, :2]]
        torch.testing.assert_close(alone.log_prob[0], found.log_prob[row, :2], atol=1e-5, rtol=1e-5)


def test_log_prob_is_the_models_own():
    decoder, features = plain.random_decoder(1), photos(4)
    found = sample(decoder, features, STRICT, uniforms_for(0, range(4), 3, 7), 2.0, 4, 0.9)
    with torch.no_grad():
        rescored = decoder.log_prob(features.repeat(3), found.tokens.flatten(0, 1)).sum(dim=1).view(4, 3)
    torch.testing.assert_close(found.log_prob, rescored, atol=1e-5, rtol=1e-5)


def test_extreme_random_numbers_never_draw_a_forbidden_token():
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    numbers = torch.tensor([0.0, 0.25 - 2**-53, 0.25, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights, numbers).tolist() == [1, 1, 3, 3]


def test_too_few_random_numbers_are_refused():
    decoder, features = Scrambled(0), photos(2)
    with pytest.raises(ValueError, match="uniforms"):
        sample(decoder, features, STRICT, uniforms_for(0, range(2), 3, 6))
    with pytest.raises(ValueError, match="uniforms"):
        sample(decoder, features, STRICT, uniforms_for(0, range(3), 3, 7))
    assert (sample(decoder, features, STRICT, uniforms_for(0, range(2), 3, 7)).tokens != UNK).all()

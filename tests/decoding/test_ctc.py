"""CTC search against the sum over all alignments."""

import math

import pytest
import torch

from src.decoding.beam import beam
from src.decoding.constraints import Constraints
from src.decoding.ctc_search import CTCPrefixDecoder, collapse
from src.models.ctc import clamped_emissions, ctc_token_log_probs
from src.models.decoder import END, PAD
from tests.helpers.plain_ctc import by_alignments, random_emissions
from tests.helpers.plain_decoding import allowed_tokens, as_list

pytestmark = pytest.mark.usefixtures("seeded")


def test_prefix_probabilities_are_sums_over_alignments():
    log_probs, blank = random_emissions(3, 5, 3)
    targets = torch.full((3, 5), 1).masked_fill(torch.arange(5) >= torch.tensor([[5], [4], [1]]), PAD)
    emissions = clamped_emissions(log_probs, targets, blank)
    for row, length in enumerate((5, 4, 1)):
        exact = by_alignments(log_probs[row, :length], blank, {})
        assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
        for words, probability in exact.items():
            tokens = torch.tensor([[*words, END, PAD]])
            each = ctc_token_log_probs(emissions[row : row + 1], blank, tokens)[0]
            assert each.sum().item() == pytest.approx(math.log(probability), abs=1e-4)
            of_prefix = sum(value for other, value in exact.items() if other[: len(words)] == words)
            assert each[: len(words)].sum().item() == pytest.approx(math.log(of_prefix), abs=1e-4)
        tokens = torch.tensor([[3] * length + [END]])
        if length > 1:
            total = ctc_token_log_probs(emissions[row : row + 1], blank, tokens).sum()
            assert total < -9000, "equal words need blanks, for which there is no room"


def test_a_wide_prefix_beam_finds_the_best_of_all_captions():
    """The beam holds every caption: the order and the probabilities are those of exhaustive search under the rules."""
    log_probs, blank = random_emissions(12, 4, 2)
    emissions = clamped_emissions(log_probs, torch.ones(12, 4, dtype=torch.long), blank)
    for rules in (Constraints(1, 4), Constraints(2, 3, no_repeat_ngram_size=1), Constraints(1, 4, bad_endings=(4,))):
        found = beam(CTCPrefixDecoder(blank), emissions, rules, 60, 0.0)
        for row in range(12):
            exact = by_alignments(log_probs[row], blank, {})
            allowed = [words for words in exact if all(
                token in allowed_tokens(list(words[:i]), rules, blank) for i, token in enumerate([*words, END])
            )]  # fmt: skip
            best = sorted(allowed, key=lambda words: -exact[words])
            assert as_list(found.tokens[row, 0]) == [*best[0], END]
            assert found.log_prob[row, 0].item() == pytest.approx(math.log(exact[best[0]]), abs=1e-4)
            assert as_list(found.tokens[row, len(best) - 1]) == [*best[-1], END]


def test_collapsing_merges_repetitions_and_removes_blanks():
    targets = torch.tensor([[9, 4, 4, 9, 4, 5, 0], [9, 9, 9, 9, 9, 9, 9], [7, 8, 0, 0, 0, 0, 0]])
    assert collapse(targets, 9, 5).tolist() == [[4, 4, 5, 2, 0], [2, 0, 0, 0, 0], [7, 8, 2, 0, 0]]
    assert collapse(targets, None, 4).tolist() == [[9, 4, 4, 2], [9, 9, 9, 2], [7, 8, 2, 0]]

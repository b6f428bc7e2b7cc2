"""The word error rate against jiwer, pair by pair, and by hand."""

import jiwer
import numpy as np

from src.metrics.word_error_rate import error_rate, word_errors
from tests.metrics.test_caption_scores import made_up


def test_the_nearest_reference_is_the_one_that_jiwer_rates_best():
    references, candidates = made_up(200, seed=3)
    assert "" in candidates, "an empty caption is among them"
    errors, closest = word_errors(references, candidates), []
    for group, candidate, (edits, words) in zip(references, candidates, errors.tolist(), strict=True):
        rates = [jiwer.wer(reference, candidate) for reference in group]
        closest.append(min(zip(rates, map(len, map(str.split, group)), group, strict=True))[2])
        assert edits / words == min(rates)
        equal = [len(text.split()) for text, rate in zip(group, rates, strict=True) if rate == min(rates)]
        assert words == min(equal), "of equally near ones the shortest"
    assert error_rate(errors.sum(axis=0)) == jiwer.wer(closest, candidates)
    assert error_rate(errors.sum(axis=0)) != np.mean(errors[:, 0] / errors[:, 1]), (
        "edits over words, not a mean of rates"
    )


def test_captions_and_references_without_words():
    references = [["a sharp photo", "a photo"], ["", "the sea is calm"], [""], ["", ""]]
    errors = word_errors(references, ["", "", "two words", ""])
    assert errors.tolist() == [[2, 2], [4, 4], [2, 0], [0, 0]]
    assert error_rate(errors.sum(axis=0)) == 8 / 6
    assert error_rate(errors).tolist() == [1, 1, jiwer.wer("", "two words"), 0]


def test_a_word_more_than_the_reference_has_raises_the_rate_above_one():
    assert error_rate(word_errors([["giraffes"]], ["giraffes giraffes giraffes"])).tolist() == [2.0]

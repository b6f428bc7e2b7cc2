"""Model averaging against its members, and against the slow references."""

import math

import pytest
import torch

from src.base.errors import InputError
from src.decoding.beam import beam, greedy
from src.decoding.constraints import Constraints
from src.decoding.diverse_beam import diverse_beam
from src.decoding.model_averaging import AveragedFeatures, ModelAverage
from src.decoding.sampling import sample, uniforms_for
from tests.helpers import plain_decoding as plain
from tests.helpers.plain_decoding import CAUSAL, VOCABULARY, Scrambled, as_list, next_log_probs_of, photos

pytestmark = pytest.mark.usefixtures("one_thread")

STRICT = Constraints(minimum_words=2, maximum_words=6, no_repeat_ngram_size=2, bad_endings=(4, 5, 6))
MEANS = pytest.mark.parametrize("mean", ["probabilities", "log_probabilities"])
SEARCHES = {
    "greedy": lambda decoder, features: greedy(decoder, features, STRICT),
    "beam": lambda decoder, features: beam(decoder, features, STRICT, 3, 0.7),
    "diverse": lambda decoder, features: diverse_beam(decoder, features, STRICT, 4, 0.7, 2, 0.8),
    "sample": lambda decoder, features: sample(decoder, features, STRICT, uniforms_for(5, range(4), 3, 7), 0.9, 6, 0.9),
}


def plain_mean(members: list[list[float]], mean: str) -> list[float]:
    """Log-probabilities of the mean of members' log-probabilities, token by token."""
    if mean == "probabilities":
        return [math.log(sum(map(math.exp, each)) / len(each)) for each in zip(*members, strict=True)]
    powers = [math.exp(sum(each) / len(each)) for each in zip(*members, strict=True)]
    return [math.log(power / sum(powers)) for power in powers]


@MEANS
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_the_average_of_two_copies_is_the_model_itself(search, mean):
    for seed in range(4):
        decoder, features = plain.random_decoder(seed), photos(4)
        alone = search(decoder, features)
        both = search(ModelAverage([decoder, decoder], mean), AveragedFeatures((features, features)))
        assert torch.equal(both.tokens, alone.tokens)
        torch.testing.assert_close(both.log_prob, alone.log_prob, atol=1e-5, rtol=1e-5)


def test_searches_use_the_mean_of_members_of_all_kinds_and_encoders():
    """All kinds of decoders with encoders of different widths, against the slow references."""
    kinds = [*CAUSAL, "recurrent"]
    for seed in range(2):
        members = [plain.random_decoder(seed + i, kind, width=5 + i) for i, kind in enumerate(kinds)]
        members.append(Scrambled(seed))
        features = AveragedFeatures(tuple(photos(2, 5 + i, seed) for i in range(len(members))))
        pairs = list(zip(members, features.features, strict=True))
        afters = [[next_log_probs_of(member, each, row) for member, each in pairs] for row in range(2)]
        for mean in ("probabilities", "log_probabilities"):
            assert_searches_use_the_mean(ModelAverage(members, mean), features, afters)


def assert_searches_use_the_mean(average: ModelAverage, features: AveragedFeatures, afters: list[list]) -> None:
    """`afters`: of each photo the next-token log-probabilities of each member."""
    uniforms = uniforms_for(0, range(2), 4, 7)
    best, wide = greedy(average, features, STRICT), beam(average, features, STRICT, 3, 0.7)
    diverse = diverse_beam(average, features, STRICT, 4, 0.7, 2, 0.8)
    drawn = sample(average, features, STRICT, uniforms, 1.2, 5, 0.9)
    for row, members in enumerate(afters):

        def after(words, members=members):
            return plain_mean([each(words) for each in members], average.mean)

        assert as_list(best.tokens[row, 0]) == plain.plain_greedy(after, STRICT)[1]
        for found, expected in (
            (wide, plain.plain_beam(after, STRICT, 3, 0.7)),
            (diverse, plain.plain_diverse(after, STRICT, 4, 0.7, 2, 0.8)),
            (drawn, [(0, *plain.plain_sample(after, STRICT, each.tolist(), 1.2, 5, 0.9)) for each in uniforms[row]]),
        ):
            assert [as_list(tokens) for tokens in found.tokens[row]] == [tokens for _, _, tokens in expected]
            assert found.log_prob[row].tolist() == pytest.approx([log_prob for _, log_prob, _ in expected], abs=1e-4)


@MEANS
def test_members_that_rule_out_each_others_words_give_finite_scores(mean):
    one, other = Scrambled(0), Scrambled(1)
    one.table[:, : VOCABULARY // 2] = other.table[:, VOCABULARY // 2 :] = float("-inf")
    features = photos(4)
    found = beam(ModelAverage([one, other], mean), AveragedFeatures((features, features)), STRICT, 3, 0.7)
    assert found.log_prob.isfinite().all()


def test_members_need_one_vocabulary():
    features = photos(2)
    average = ModelAverage([Scrambled(0), Scrambled(0, VOCABULARY + 1)], "probabilities")
    with pytest.raises(InputError, match="one vocabulary, .* 12, 13 words"):
        greedy(average, AveragedFeatures((features, features)), STRICT)

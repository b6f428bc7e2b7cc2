"""Ensembles of captioners against their members."""

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
from tests.helpers.plain_decoding import CAUSAL, VOCABULARY, Scrambled, as_list, following, photos

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
def test_two_copies_of_one_captioner_are_that_captioner(search, mean):
    for seed in range(4):
        decoder, features = plain.random_decoder(seed), photos(4)
        alone = search(decoder, features)
        both = search(ModelAverage([decoder, decoder], mean), AveragedFeatures((features, features)))
        assert torch.equal(both.tokens, alone.tokens)
        torch.testing.assert_close(both.log_prob, alone.log_prob, atol=1e-5, rtol=1e-5)


def test_members_of_all_kinds_and_encoders_write_by_their_mean():
    """Every kind of captioner, seeing features of another width each, against the plain searches."""
    kinds = [*CAUSAL, "recurrent"]
    for seed in range(2):
        members = [plain.random_decoder(seed + i, kind, width=5 + i) for i, kind in enumerate(kinds)]
        members.append(Scrambled(seed))
        seen = AveragedFeatures(tuple(photos(2, 5 + i, seed) for i in range(len(members))))
        pairs = list(zip(members, seen.features, strict=True))
        afters = [[following(member, each, row) for member, each in pairs] for row in range(2)]
        for mean in ("probabilities", "log_probabilities"):
            assert_writes_by_the_mean(ModelAverage(members, mean), seen, afters)


def assert_writes_by_the_mean(team: ModelAverage, seen: AveragedFeatures, afters: list[list]) -> None:
    """`afters`: of each photo what plainly follows in each member's captions."""
    numbers = uniforms_for(0, range(2), 4, 7)
    cold, wide = greedy(team, seen, STRICT), beam(team, seen, STRICT, 3, 0.7)
    several, drawn = diverse_beam(team, seen, STRICT, 4, 0.7, 2, 0.8), sample(team, seen, STRICT, numbers, 1.2, 5, 0.9)
    for row, members in enumerate(afters):

        def after(words, members=members):
            return plain_mean([each(words) for each in members], team.mean)

        assert as_list(cold.tokens[row, 0]) == plain.plain_greedy(after, STRICT)[1]
        for found, expected in (
            (wide, plain.plain_beam(after, STRICT, 3, 0.7)),
            (several, plain.plain_diverse(after, STRICT, 4, 0.7, 2, 0.8)),
            (drawn, [(0, *plain.plain_sample(after, STRICT, each.tolist(), 1.2, 5, 0.9)) for each in numbers[row]]),
        ):
            assert [as_list(tokens) for tokens in found.tokens[row]] == [tokens for _, _, tokens in expected]
            assert found.log_prob[row].tolist() == pytest.approx([log_prob for _, log_prob, _ in expected], abs=1e-4)


@MEANS
def test_members_that_rule_out_each_others_words_still_give_numbers(mean):
    one, other = Scrambled(0), Scrambled(1)
    one.table[:, : VOCABULARY // 2] = other.table[:, VOCABULARY // 2 :] = float("-inf")
    seen = photos(4)
    found = beam(ModelAverage([one, other], mean), AveragedFeatures((seen, seen)), STRICT, 3, 0.7)
    assert found.log_prob.isfinite().all()


def test_members_need_one_vocabulary():
    seen = photos(2)
    team = ModelAverage([Scrambled(0), Scrambled(0, VOCABULARY + 1)], "probabilities")
    with pytest.raises(InputError, match="one vocabulary, .* 12, 13 words"):
        greedy(team, AveragedFeatures((seen, seen)), STRICT)


@pytest.mark.parametrize(("members", "mean"), [([], "probabilities"), ([Scrambled(0)], "median")])
def test_ensembles_that_make_no_sense_are_refused(members, mean):
    with pytest.raises(ValueError, match="mean of"):
        ModelAverage(members, mean)

"""Greedy, beam and diverse beam search against slow references, by hand, and against exhaustive search."""

import dataclasses
import itertools

import pytest
import torch

from src.base.errors import InputError
from src.decoding.beam import beam, greedy
from src.decoding.candidates import Candidates
from src.decoding.constraints import Constraints
from src.decoding.diverse_beam import diverse_beam
from src.decoding.sampling import sample, uniforms_for
from src.decoding.strategy import CaptionSearch
from src.models.decoder import END, PAD, UNK
from src.settings.schema import DecodingSettings
from tests.helpers import plain_decoding as plain
from tests.helpers.plain_decoding import CAUSAL, VOCABULARY, Scrambled, as_list, next_log_probs_of, photos

pytestmark = pytest.mark.usefixtures("one_thread")

FREE = Constraints(minimum_words=0, maximum_words=7)
STRICT = Constraints(minimum_words=2, maximum_words=7, no_repeat_ngram_size=2, bad_endings=(4, 5, 6))
RULES = pytest.mark.parametrize("rules", [FREE, STRICT], ids=["free", "constrained"])


@pytest.fixture(scope="module")
def models():
    """Random decoders of all kinds, each with three photos and their log-probabilities by teacher forcing."""
    networks = [plain.random_decoder(seed, name) for name in CAUSAL for seed in range(3)]
    features = photos(3)
    with torch.no_grad():
        return [
            (decoder, features, [next_log_probs_of(decoder, features, row) for row in range(3)])
            for decoder in [*networks, *(Scrambled(seed, end=seed % 4) for seed in range(16))]
        ]


def assert_same(found: Candidates, row: int, expected: list[tuple], penalty: float) -> None:
    """`expected`: (score, log_prob, tokens) of each candidate of the photo."""
    assert [as_list(tokens) for tokens in found.tokens[row]] == [tokens for _, _, tokens in expected]
    for ours, theirs in ((found.log_prob, 1), (found.scores(penalty), 0)):
        torch.testing.assert_close(ours[row], torch.tensor([each[theirs] for each in expected]), atol=1e-4, rtol=1e-5)


@RULES
@pytest.mark.parametrize("width", [1, 2, 5])
def test_beam_equals_the_plain_reference(models, width, rules):
    lengths = set()
    for number, (decoder, features, afters) in enumerate(models):
        penalty = (0.0, 0.7, 1.5)[number % 3]
        found = beam(decoder, features, rules, width, penalty)
        for row, after in enumerate(afters):
            expected = plain.plain_beam(after, rules, width, penalty)
            assert_same(found, row, expected, penalty)
            lengths |= {len(tokens) for _, _, tokens in expected}
    assert len(lengths) > 3, "captions of too few lengths to test anything"


@RULES
@pytest.mark.parametrize(("width", "groups"), [(6, 2), (3, 3)])
def test_diverse_beam_equals_the_plain_reference(models, width, groups, rules):
    differs = 0
    for number, (decoder, features, afters) in enumerate(models):
        penalty, diversity = (0.0, 0.7, 1.5)[number % 3], (0.4, 1.0, 3.0)[number // 3 % 3]
        found = diverse_beam(decoder, features, rules, width, penalty, groups, diversity)
        for row, after in enumerate(afters):
            assert_same(found, row, plain.plain_diverse(after, rules, width, penalty, groups, diversity), penalty)
        usual = beam(decoder, features, rules, width, penalty)
        differs += usual.tokens.shape != found.tokens.shape or not torch.equal(usual.tokens, found.tokens)
    assert differs > len(models) / 2


@RULES
def test_one_group_is_beam_search(models, rules):
    for decoder, features, _ in models:
        usual = beam(decoder, features, rules, 3, 0.7)
        found = diverse_beam(decoder, features, rules, 3, 0.7, groups=1, diversity=2.0)
        assert torch.equal(found.tokens, usual.tokens) and torch.equal(found.log_prob, usual.log_prob)


@RULES
def test_greedy_equals_the_plain_reference_and_beam_of_one(models, rules):
    for decoder, features, afters in models:
        found, narrow = greedy(decoder, features, rules), beam(decoder, features, rules, 1, 0.7)
        assert torch.equal(found.tokens, narrow.tokens)
        torch.testing.assert_close(found.log_prob, narrow.log_prob, atol=1e-5, rtol=1e-5)
        for row, after in enumerate(afters):
            log_prob, tokens = plain.plain_greedy(after, rules)
            assert as_list(found.tokens[row, 0]) == tokens
            assert found.log_prob[row, 0].item() == pytest.approx(log_prob, abs=1e-4)


def test_log_prob_of_candidates_is_that_of_the_decoder():
    decoder, features = plain.random_decoder(3), photos(4)
    for found in (beam(decoder, features, STRICT, 4, 0.7), diverse_beam(decoder, features, STRICT, 4, 0.7, 2, 1.0)):
        with torch.no_grad():
            rescored = decoder.log_prob(features.repeat(4), found.tokens.flatten(0, 1)).sum(dim=1).view(4, 4)
        torch.testing.assert_close(found.log_prob, rescored, atol=1e-5, rtol=1e-5)
        scores = found.scores(0.7)
        assert (scores[:, :-1] >= scores[:, 1:]).all()


def test_a_photo_gets_the_same_captions_in_any_batch():
    decoder, features = plain.random_decoder(5), photos(6)
    for search in (lambda seen: beam(decoder, seen, STRICT, 3, 0.7), lambda seen: diverse_beam(
        decoder, seen, STRICT, 3, 0.7, 3, 1.0
    )):  # fmt: skip
        batched = search(features)
        for row in range(6):
            alone = search(features.select(torch.tensor([row])))
            assert [as_list(t) for t in alone.tokens[0]] == [as_list(t) for t in batched.tokens[row]]
            torch.testing.assert_close(alone.log_prob[0], batched.log_prob[row], atol=1e-5, rtol=1e-5)


def test_wide_beam_finds_the_most_probable_caption_of_all():
    """Eight words and at most three places: all 585 captions can be listed."""
    rules = Constraints(minimum_words=0, maximum_words=3)
    decoder, features = plain.random_decoder(2), photos(1)
    words = range(UNK + 1, VOCABULARY)
    complete = [[*chosen, END] for length in range(4) for chosen in itertools.product(words, repeat=length)]
    captions = torch.tensor([tokens + [PAD] * (4 - len(tokens)) for tokens in complete])
    with torch.no_grad():
        total = decoder.log_prob(features.repeat(len(captions)), captions).sum(dim=1)
    found = beam(decoder, features, rules, width=len(captions), length_penalty=0.0)
    assert as_list(found.tokens[0, 0]) == complete[int(total.argmax())]
    assert (found.log_prob[0] > float("-inf")).sum() == len(captions) == 585


def test_fewer_captions_than_the_beam_is_wide_leave_empty_candidates():
    rules = Constraints(minimum_words=1, maximum_words=1)
    found = beam(plain.random_decoder(0), photos(2), rules, width=VOCABULARY, length_penalty=1.0)
    words = VOCABULARY - UNK - 1
    assert (found.log_prob[:, :words] > float("-inf")).all()
    assert (found.log_prob[:, words:] == float("-inf")).all() and (found.tokens[:, words:] == PAD).all()


def test_finished_captions_are_not_computed_any_further():
    """One step per token of the longest caption, and one row per unfinished caption."""
    rules = Constraints(minimum_words=0, maximum_words=40)
    decoder, features = Scrambled(0, end=1.5), photos(16)
    longest = int(greedy(decoder, features, rules).lengths().max())
    assert len(decoder.rows) == longest < 40 and sum(decoder.rows) == int(
        greedy(decoder, features, rules).lengths().sum()
    )
    steps = {}
    for row in range(16):
        alone = features.select(torch.tensor([row]))
        for name, search in {
            "beam": lambda seen: beam(decoder, seen, rules, 4, 0.7),
            "diverse": lambda seen: diverse_beam(decoder, seen, rules, 4, 0.7, 2, 1.0),
            "sample": lambda seen: sample(decoder, seen, rules, torch.full((len(seen), 3, 41), 0.6).double()),
        }.items():
            decoder.rows.clear()
            search(alone)
            steps.setdefault(name, (search, []))[1].append((len(decoder.rows), sum(decoder.rows)))
    for search, alone in steps.values():
        decoder.rows.clear()
        search(features)
        assert len(decoder.rows) == max(count for count, _ in alone) < 40
        assert sum(decoder.rows) == sum(rows for _, rows in alone)


def certain(probabilities: list[float]) -> Scrambled:
    """The same probabilities at every position."""
    decoder = Scrambled(0, len(probabilities))
    decoder.table = torch.tensor(probabilities).log().expand(9973, -1)
    return decoder


def test_beam_by_hand():
    """P(END) = .5, P(4) = .4, P(5) = .1. Raw sums favour the empty caption, means per token the same caption (ln .5).

    Width 2, after step 1: [END] finished at ln .5, live [4] ln .4 and [5] ln .1. Step 2 ranks [4 END] ln .2,
    [4 4] ln .16, …: [4 END] is the second that ends, and the search is over.
    """
    decoder = certain([0, 0, 0.5, 0, 0.4, 0.1])
    found = beam(decoder, photos(2), Constraints(0, 5), width=2, length_penalty=0.0)
    assert found.tokens[1].tolist() == [[END, PAD], [4, END]]
    torch.testing.assert_close(found.log_prob[1].exp(), torch.tensor([0.5, 0.2]))
    longer = beam(decoder, photos(1), Constraints(0, 5), width=2, length_penalty=2.0)
    assert longer.tokens[0].tolist() == [[4, END], [END, PAD]]


def test_diverse_beam_by_hand():
    """P(4) = .5, P(5) = .3, P(6) = .1, P(END) = .1, exactly one word, three groups of one.

    The second group pays ln 2 for 4 (.5 / 2 < .3) and takes 5; the third would pay it for 5 too (.15 < .25): 4 again.
    """
    found = diverse_beam(certain([0, 0, 0.1, 0, 0.5, 0.3, 0.1]), photos(2), Constraints(1, 1), 3, 0.0, 3, 0.6931)
    assert found.tokens[1].tolist() == [[4, END], [4, END], [5, END]]
    torch.testing.assert_close(found.log_prob[1].exp(), torch.tensor([0.05, 0.05, 0.03]))


@pytest.mark.parametrize(
    "search",
    [
        greedy,
        lambda *arguments: beam(*arguments, 3, 0.7),
        lambda *arguments: diverse_beam(*arguments, 4, 0.7, 2, 0.5),
        lambda *arguments: sample(*arguments, uniforms_for(0, range(2), 3, 8)),
    ],
    ids=["greedy", "beam", "diverse", "sample"],
)
def test_nan_is_an_input_error(search):
    with pytest.raises(InputError, match="NaN"):
        search(certain([float("nan")] * 8), photos(2), FREE)


def test_search_under_autocast_keeps_float32_scores():
    decoder, features = plain.random_decoder(1), photos(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert greedy(decoder, features, STRICT).log_prob.dtype == torch.float32
        assert beam(decoder, features, STRICT, 3, 0.7).log_prob.dtype == torch.float32


def test_settings_select_the_search_and_all_its_rules():
    words = ["<pad>", "<start>", "<end>", "<unk>", "of", "the", "with", "sky", "sea", "blue", "red", "sun"]
    settings = DecodingSettings(
        beam=4, length_penalty=1.2, minimum_words=2, maximum_words=7, no_repeat_ngram_size=2,
        bad_endings="the With of <unk> no", beam_groups=2, diversity=0.9, samples=6,
        temperature=1.3, top_k=5, top_p=0.9,
    )  # fmt: skip
    decoder, features = Scrambled(4), photos(5)
    drawn = sample(decoder, features, STRICT, uniforms_for(11, [7, 3, 9, 0, 2], 6, 8), 1.3, 5, 0.9)
    expected = {
        "beam": beam(decoder, features, STRICT, 4, 1.2),
        "diverse": diverse_beam(decoder, features, STRICT, 4, 1.2, 2, 0.9),
        "sample": drawn.ranked(1.2),
    }
    for name, direct in expected.items():
        found = CaptionSearch(dataclasses.replace(settings, search=name), words)(decoder, features, [7, 3, 9, 0, 2], 11)
        assert torch.equal(found.tokens, direct.tokens) and torch.equal(found.log_prob, direct.log_prob)
        scores = found.scores(1.2)
        assert (scores[:, :-1] >= scores[:, 1:]).all() and (scores[:, 0] > scores[:, -1]).all()
    found = CaptionSearch(dataclasses.replace(settings, beam=1), words)(decoder, features, range(5), 0)
    assert torch.equal(found.tokens, greedy(decoder, features, STRICT).tokens)


def test_groups_that_do_not_divide_the_beam_are_refused():
    with pytest.raises(ValueError, match="decoding.beam=4 .*decoding.beam_groups=3 .*; give decoding.beam=6"):
        DecodingSettings(search="diverse", beam=4, beam_groups=3)
    assert DecodingSettings(search="beam", beam=4, beam_groups=3)
    with pytest.raises(InputError, match="decoding.beam=4 .*decoding.beam_groups=3"):
        diverse_beam(Scrambled(4), photos(2), STRICT, 4, 1.0, 3, 0.5)

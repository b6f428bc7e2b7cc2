"""The captioners that write all words at once: their networks, alignments, losses and passes, on random weights."""

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch

from src.decoding.beam import beam
from src.decoding.constraints import Constraints, satisfied
from src.decoding.ctc_search import CTCPrefixDecoder, Emissions, collapse
from src.decoding.mask_predict_search import mask_predict
from src.models.captioner import build_decoder
from src.models.ctc import clamped_emissions, ctc_token_log_probs
from src.models.decoder import END, PAD, UNK
from src.settings.schema import DecoderSettings
from src.training.losses import alignment_loss
from src.training.masked_losses import masked_losses, with_visible_words
from tests.helpers.plain_decoding import VOCABULARY, allowed_tokens, as_list, photos, plain_greedy

pytestmark = pytest.mark.usefixtures("seeded")

NAMES = ("mask_predict", "ctc_mask_predict")
SMALL = {"hidden": 16, "heads": 2, "feedforward": 24, "layers": 2}


def built(name: str, seed: int = 0, vocabulary: int = VOCABULARY, **settings):
    """With weights far from their start, so that its preferences are pronounced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_decoder(DecoderSettings(name=name, **SMALL, **settings), vocabulary, 6).eval()
        for parameter in decoder.parameters():
            parameter.data += 0.25 * torch.randn_like(parameter)
        decoder.length[-1].bias.data[:1].clamp_(3, 6)
    return decoder


def captions(lengths, vocabulary: int = VOCABULARY) -> torch.Tensor:
    tokens = torch.full((len(lengths), max(lengths) + 1), PAD)
    for row, words in enumerate(lengths):
        tokens[row, :words] = torch.randint(UNK, vocabulary, (words,))
        tokens[row, words : words + 1] = END
    return tokens


def uniforms(decoder, tokens: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(tokens), decoder.uniforms_per_token * (tokens.shape[1] + 1))


# ---- alignments by brute force


def said_by(alignment, blank: int) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(alignment) if symbol != blank)


def by_alignments(log_probs: torch.Tensor, blank: int, shown: dict[int, int]) -> dict[tuple[int, ...], float]:
    """The probability of every caption: the sum over all alignments [P] that have the symbols shown."""
    symbols, found = [*range(UNK, blank), blank], {}
    for alignment in itertools.product(symbols, repeat=len(log_probs)):
        if all(alignment[place] == symbol for place, symbol in shown.items()):
            hidden = [log_probs[p, s].item() for p, s in enumerate(alignment) if p not in shown]
            words = said_by(alignment, blank)
            found[words] = found.get(words, 0.0) + math.exp(sum(hidden))
    return found


def lattices(count: int, places: int, words: int) -> tuple[torch.Tensor, int]:
    """Log-probabilities [count, places, V] with PAD, START and END impossible; the blank is the last symbol."""
    logits = 2 * torch.randn(count, places, UNK + words + 1)
    logits[:, :, :UNK] = -1e4
    return logits.log_softmax(2), UNK + words


def test_the_loss_of_alignments_is_the_sum_over_them():
    log_probs, blank = lattices(6, 5, 3)
    log_probs = log_probs.double().requires_grad_()
    canvas = torch.tensor(
        [[3, 6, 4, 6, 6], [5, 5, 6, 5, 6], [3, 4, 5, 3, 4], [6, 6, 6, 4, 6], [4, 6, 4, 0, 0], [0, 0, 0, 0, 0]]
    )
    tokens = torch.tensor([[3, 4, 2, 0, 0, 0], [5, 5, 2, 0, 0, 0], [3, 4, 5, 3, 4, 2], [4, 2, 0, 0, 0, 0],
                           [4, 4, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]])  # fmt: skip
    for trial in range(4):
        hidden = (torch.rand(6, 5) < (1.0 if trial == 0 else 0.6)) & (canvas != PAD)
        loss = alignment_loss(log_probs, canvas, hidden, tokens, blank)
        for row in range(5):
            places = int((canvas[row] != PAD).sum())
            shown = {p: int(canvas[row, p]) for p in range(places) if not hidden[row, p]}
            words = tuple(token for token in tokens[row].tolist() if token > END)
            expected = by_alignments(log_probs[row, :places], blank, shown)[words]
            assert loss[row].item() == pytest.approx(-math.log(expected), abs=1e-6)
        assert loss[5] == 0
        (gradient,) = torch.autograd.grad(loss.sum(), log_probs, retain_graph=True)
        assert gradient.isfinite().all() and not gradient[~hidden].any()
    none = alignment_loss(log_probs[:1], canvas[1:2], torch.ones(1, 5, dtype=torch.bool), captions([6]), blank)
    assert none.isinf().all(), "what has no room must not pass for free"


def test_prefix_probabilities_are_exact():
    log_probs, blank = lattices(3, 5, 3)
    canvas = torch.full((3, 5), 1).masked_fill(torch.arange(5) >= torch.tensor([[5], [4], [1]]), PAD)
    lattice = clamped_emissions(log_probs, canvas, blank)
    for row, places in enumerate((5, 4, 1)):
        exact = by_alignments(log_probs[row, :places], blank, {})
        assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
        for words, probability in exact.items():
            tokens = torch.tensor([[*words, END, PAD]])
            said = ctc_token_log_probs(lattice[row : row + 1], blank, tokens)[0]
            assert said.sum().item() == pytest.approx(math.log(probability), abs=1e-4)
            begin = sum(value for other, value in exact.items() if other[: len(words)] == words)
            assert said[: len(words)].sum().item() == pytest.approx(math.log(begin), abs=1e-4)
        tokens = torch.tensor([[3] * places + [END]])
        if places > 1:
            assert ctc_token_log_probs(lattice[row : row + 1], blank, tokens).sum() < -9000, "there is no room for it"


def test_prefix_beam_search_is_exhaustive_search():
    """A beam that holds every caption finds the best of all that the rules allow, with its exact probability."""
    log_probs, blank = lattices(12, 4, 2)
    canvas = torch.ones(12, 4, dtype=torch.long)
    lattice = clamped_emissions(log_probs, canvas, blank)
    for rules in (Constraints(1, 4), Constraints(2, 3, no_repeat_ngram_size=1), Constraints(1, 4, bad_endings=(4,))):
        found = beam(CTCPrefixDecoder(), Emissions(lattice, blank), rules, 60, 0.0)
        for row in range(12):
            exact = by_alignments(log_probs[row], blank, {})
            allowed = [words for words in exact if all(
                token in allowed_tokens(list(words[:i]), rules, blank) for i, token in enumerate([*words, END])
            )]  # fmt: skip
            best = sorted(allowed, key=lambda words: -exact[words])
            assert as_list(found.tokens[row, 0]) == [*best[0], END]
            assert found.log_prob[row, 0].item() == pytest.approx(math.log(exact[best[0]]), abs=1e-4)
            assert as_list(found.tokens[row, len(best) - 1]) == [*best[-1], END]


def test_words_are_kept_by_collapsing():
    canvas = torch.tensor([[9, 4, 4, 9, 4, 5, 0], [9, 9, 9, 9, 9, 9, 9], [7, 8, 0, 0, 0, 0, 0]])
    assert collapse(canvas, 9, 5).tolist() == [[4, 4, 5, 2, 0], [2, 0, 0, 0, 0], [7, 8, 2, 0, 0]]
    assert collapse(canvas, None, 4).tolist() == [[9, 4, 4, 2], [9, 9, 9, 2], [7, 8, 2, 0]]


# ---- the networks


@pytest.mark.parametrize("length", ["regression", "classification"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_protocol(name, length):
    decoder, seen = built(name, length=length), photos(4)
    look = decoder.encode(seen)
    lengths = decoder.length_log_probs(look)
    assert lengths[:, 0].isinf().all() and torch.allclose(lengths.exp().sum(1), torch.ones(4), atol=1e-5)
    words = torch.tensor([1, 4, 2, 5])
    canvas = decoder.fully_masked(words)
    assert (
        torch.equal((canvas == decoder.mask).sum(1), decoder.target_length(words)) and canvas[3].eq(decoder.mask).all()
    )
    whole = decoder.predict_masked(look, canvas)
    assert torch.allclose(whole.exp().sum(2), torch.ones(canvas.shape), atol=1e-5)
    assert whole.shape[2] == VOCABULARY + (decoder.blank is not None), "the mask is no output"
    one = torch.tensor([2])
    alone = decoder.predict_masked(
        decoder.encode(seen.select(one)), canvas[2:3, : int(decoder.target_length(words[2]))]
    )
    torch.testing.assert_close(whole[2, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    shared = decoder.predict_masked(look, canvas.repeat_interleave(3, 0))
    torch.testing.assert_close(shared[4], whole[1], atol=1e-5, rtol=1e-5)
    tokens = captions([4, 2, 0, 5])
    tokens[2] = PAD
    log_prob = decoder.log_prob(seen, tokens)
    assert not log_prob[tokens == PAD].any() and (log_prob[tokens != PAD] < 0).all()
    for row, length_of in ((0, 4), (3, 5)):
        row_lengths = lengths[row, length_of] if decoder.blank is None else 0
        hidden = decoder.fully_masked(
            torch.tensor([length_of if decoder.blank is None else int(lengths[row].argmax())])
        )
        one = decoder.encode(seen.select(torch.tensor([row])))
        said = decoder.predict_masked(one, hidden)[0]
        if decoder.blank is None:
            expected = sum(said[p, tokens[row, p]] for p in range(length_of)) + row_lengths
        else:
            lattice = clamped_emissions(said[None], hidden, decoder.blank)
            expected = ctc_token_log_probs(lattice, decoder.blank, tokens[row : row + 1]).sum()
        torch.testing.assert_close(log_prob[row].sum(), expected, atol=1e-4, rtol=1e-4)


def test_length_losses():
    for length in ("regression", "classification"):
        decoder = built("mask_predict", length=length)
        look, words = decoder.encode(photos(4)), torch.tensor([1, 4, 2, 7])
        loss, said = (
            decoder.length_loss(look, words),
            decoder.length_log_probs(look).gather(1, words.unsqueeze(1)).squeeze(1),
        )
        if length == "classification":
            torch.testing.assert_close(loss, -said)
        else:  # a Gaussian's
            torch.testing.assert_close(loss / 2 + 0.5 * math.log(2 * math.pi), -said, atol=2e-3, rtol=2e-3)
            assert decoder.length_log_probs(look).argmax(1).sub(look.length.squeeze(1)).abs().max() <= 0.5


# ---- what is learned


@pytest.mark.parametrize("upsample", [2, 3])
@torch.no_grad()
def test_each_shown_alignment_says_its_caption(upsample):
    decoder = built("ctc_mask_predict", upsample=upsample)
    tokens = captions([1, 2, 7, 12, 12, 3, 40])
    tokens[3, :12] = 5  # one word twelve times
    tokens[4, 4:6] = 6
    tokens[5] = PAD
    tokens[6, :40] = torch.arange(40) % 8 + 4
    beginnings = set()
    for _ in range(30):
        canvas, hidden = decoder.mask_tokens(tokens, uniforms(decoder, tokens))
        assert torch.equal(
            collapse(canvas, decoder.blank, tokens.shape[1])[[0, 1, 2, 3, 4, 6]], tokens[[0, 1, 2, 3, 4, 6]]
        )
        places = (canvas != PAD).sum(1)
        assert places[5] == 0 and (hidden.sum(1) >= (places > 0).long()).all() and not hidden[canvas == PAD].any()
        assert hidden[canvas == decoder.blank].all()
        assert places[:5].tolist() == [upsample * words for words in (1, 2, 7, 12, 12)]
        beginnings.add(int((canvas[2] != decoder.blank).nonzero()[0, 0]))
    assert beginnings == set(range(upsample)), "the words always begin at one place"


def test_a_uniform_number_of_words_is_hidden_at_random_places():
    decoder, tokens = built("mask_predict"), captions([5] * 4000)
    canvas, hidden = decoder.mask_tokens(tokens, uniforms(decoder, tokens))
    assert torch.equal(canvas[:, :5], tokens[:, :5]) and not canvas[:, 5].any()
    counts = hidden.sum(1).bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 800).abs().max() < 120
    assert (hidden[hidden.sum(1) == 1].float().mean(0)[:5] - 0.2).abs().max() < 0.07
    again, _ = decoder.mask_tokens(torch.cat([tokens, tokens[:, :0]], 1)[:7], torch.zeros(7, 7))
    assert torch.equal(again, canvas[:7])


@pytest.mark.parametrize("name", NAMES)
def test_no_shown_word_is_in_the_loss_and_no_hidden_one_in_the_input(name):
    decoder, seen, tokens = built(name), photos(3), captions([5, 3, 6])
    numbers = uniforms(decoder, tokens)
    canvas, hidden = decoder.mask_tokens(tokens, numbers)
    log_probs = decoder.predict_masked(decoder.encode(seen), canvas.masked_fill(hidden, decoder.mask))
    other = canvas.clone()
    other[hidden] = torch.randint(UNK + 1, VOCABULARY, (int(hidden.sum()),))
    again = decoder.predict_masked(decoder.encode(seen), other.masked_fill(hidden, decoder.mask))
    assert torch.equal(log_probs, again), "a hidden symbol is seen"
    log_probs.retain_grad()
    fill, decoder.predict_masked = decoder.predict_masked, lambda *_: log_probs
    masked_losses(decoder, seen, tokens, numbers, 0.0)[0].sum().backward()
    touched = log_probs.grad.abs().sum(2) > 0
    assert torch.equal(touched, hidden), "the loss is not that of the hidden places"
    decoder.predict_masked = fill
    said = with_visible_words(decoder, seen, tokens, numbers, 20)
    if name == "mask_predict":
        kept = ~hidden[:, : tokens.shape[1]]
        assert torch.equal(said[:, : tokens.shape[1]][kept], tokens[kept])
        best = log_probs[:, :, UNK + 1 :].argmax(2) + UNK + 1
        assert torch.equal(said[:, : tokens.shape[1]][hidden], best[hidden])


@torch.no_grad()
def test_smoothing_and_plain_cross_entropy():
    decoder, seen, tokens = built("mask_predict"), photos(3), captions([5, 3, 6])
    numbers = uniforms(decoder, tokens)
    canvas, hidden = decoder.mask_tokens(tokens, numbers)
    log_probs = decoder.predict_masked(decoder.encode(seen), canvas.masked_fill(hidden, decoder.mask))
    for smoothing in (0.0, 0.1):
        loss, _ = masked_losses(decoder, seen, tokens, numbers, smoothing)
        for row in range(3):
            expected = torch.nn.functional.cross_entropy(
                log_probs[row][hidden[row]], canvas[row][hidden[row]], reduction="sum", label_smoothing=smoothing
            )
            torch.testing.assert_close(loss[row], expected)


# ---- passes


def plain_passes(decoder, seen, row: int, words: int, passes: int, everything: bool):
    """The docstring of `mask_predict`, position by position: tokens, and the distribution each was taken from."""
    look = decoder.encode(seen.select(torch.tensor([row])))
    symbols, known = [decoder.mask] * int(decoder.target_length(torch.tensor(words))), {}
    for done in range(passes):
        if done:
            silent = [p for p, symbol in enumerate(symbols) if symbol == decoder.blank or (
                decoder.blank is None and p and symbol == symbols[p - 1]
            )]  # fmt: skip
            captions = [p for p in range(len(symbols)) if p not in silent]
            captions.sort(key=lambda p: max(known[p][UNK + 1 :]))
            for place in silent + captions[: len(captions) * (passes - done) // passes]:
                symbols[place] = decoder.mask
        said = decoder.predict_masked(look, torch.tensor([symbols]))[0].tolist()
        for place, symbol in enumerate(symbols):
            if symbol == decoder.mask or everything:
                known[place] = said[place]
        for place in range(len(symbols)):
            symbols[place] = max(range(UNK + 1, len(known[place])), key=lambda s: known[place][s])
    return symbols, [known[place] for place in range(len(symbols))]


LOOSE = Constraints(1, 9)
RULES = (
    LOOSE,
    Constraints(3, 6, no_repeat_ngram_size=2, bad_endings=(5, 7)),
    Constraints(2, 5, no_repeat_ngram_size=1, bad_endings=(4,)),
)


def plain_reading(symbols: list[int], known: list[list[float]], chance: float, rules: Constraints):
    """log_prob and tokens: the words chosen, or where they break a rule the best allowed ones from left to right."""
    if all(token in allowed_tokens(symbols[:place], rules) for place, token in enumerate([*symbols, END])):
        return sum(known[place][symbol] for place, symbol in enumerate(symbols)) + chance, [*symbols, END]

    def after(begun: list[int]) -> list[float]:
        place = len(begun)
        said = list(known[place]) if place < len(known) else [-1e4] * VOCABULARY
        for word in rules.bad_endings if place == len(known) - 1 else ():
            said[word] = -1e4
        said[END] = chance if place == len(known) else -1e4
        return said

    return plain_greedy(after, rules)


@pytest.mark.parametrize("everything", [False, True])
@torch.no_grad()
def test_refinement_is_that_of_the_paper(everything):
    seen, changed = photos(4), 0
    for seed, passes, rules in itertools.product(range(2), (1, 3, 4), RULES):
        decoder, strict = built("mask_predict", seed, length="classification"), replace(rules, no_adjacent_repeat=True)
        found = mask_predict(decoder, seen, rules, passes, 3, everything, 0, 1.0)
        lengths = decoder.length_log_probs(decoder.encode(seen))
        for row in range(4):
            allowed = lengths[row, rules.minimum_words : rules.maximum_words + 1]
            expected = []
            for words in allowed.topk(3).indices.add(rules.minimum_words).tolist():
                symbols, known = plain_passes(decoder, seen, row, words, passes, everything)
                log_prob, tokens = plain_reading(symbols, known, lengths[row, words].item(), strict)
                changed += tokens[:-1] != symbols
                expected.append((log_prob / len(tokens), log_prob, tokens))
            expected.sort(key=lambda each: -each[0])
            assert [as_list(tokens) for tokens in found.tokens[row]] == [tokens for _, _, tokens in expected]
            assert found.log_prob[row].tolist() == pytest.approx([each[1] for each in expected], abs=1e-3)
    assert 0 < changed < 2 * 3 * 3 * 4 * 3, "only one of the two ways to read was tried"


@torch.no_grad()
def test_refined_alignments():
    """The best path of the last pass, with its exact probability; where it breaks a rule, word by word by prefixes."""
    seen, kept = photos(6), 0
    for seed, rules in itertools.product(range(3), RULES):
        decoder, strict = built("ctc_mask_predict", seed), replace(rules, no_adjacent_repeat=True)
        found = mask_predict(decoder, seen, rules, 3)
        best = decoder.length_log_probs(decoder.encode(seen))[:, rules.minimum_words : rules.maximum_words + 1].argmax(
            1
        )
        for row in range(6):
            symbols, known = plain_passes(decoder, seen, row, int(best[row]) + rules.minimum_words, 3, False)
            lattice, tokens = torch.tensor([known]).clamp(min=-1e4), [*said_by(symbols, decoder.blank), END]
            if all(token in allowed_tokens(tokens[:place], strict) for place, token in enumerate(tokens)):
                kept += 1
            else:
                tokens = plain_greedy(functools.partial(following, lattice, decoder.blank), strict)[1]
            assert as_list(found.tokens[row, 0]) == tokens
            exact = ctc_token_log_probs(lattice, decoder.blank, torch.tensor([tokens])).sum()
            torch.testing.assert_close(found.log_prob[row, 0], exact, atol=1e-3, rtol=1e-4)
    assert 0 < kept < 54, "only one of the two ways was tried"


def following(lattice: torch.Tensor, blank: int, begun: list[int]) -> list[float]:
    """Log-probabilities of the next token, each by the probability of all captions with it."""
    tokens = torch.tensor([[*begun, token] for token in range(blank)])
    return ctc_token_log_probs(lattice.expand(blank, -1, -1), blank, tokens)[:, -1].tolist()


@pytest.mark.parametrize("search", ["words", "alignments", "prefixes"])
@torch.no_grad()
def test_constraints_hold(search):
    name, width = ("mask_predict" if search == "words" else "ctc_mask_predict"), 3 * (search == "prefixes")
    for seed, rules in itertools.product(range(3), RULES):
        decoder = built(name, seed, vocabulary=9)
        found = mask_predict(decoder, photos(8), rules, 3, 2, seed == 2, width)
        assert found.tokens.shape[:2] == (8, 2 * max(width, 1)) and found.log_prob[:, 0].isfinite().all()
        assert found.scores(1.0).diff(dim=1).nan_to_num(0.0).le(1e-6).all()
        for tokens in found.tokens.flatten(0, 1):
            words = as_list(tokens)
            for place, token in enumerate(words):
                assert token in allowed_tokens(words[:place], replace(rules, no_adjacent_repeat=True), 9), (
                    f"{words}, {rules}"
                )


def test_keeping_the_rules_is_what_they_allow_word_by_word():
    tokens = captions([3, 5, 6, 2, 4] * 60, vocabulary=7)
    for rules in (
        *RULES,
        Constraints(0, 4, no_repeat_ngram_size=3),
        Constraints(1, 6, 2, (6,)),
        Constraints(0, 6, no_adjacent_repeat=True),
    ):
        expected = []
        for row in tokens:
            words = as_list(row)
            expected.append(all(token in allowed_tokens(words[:i], rules, 12) for i, token in enumerate(words)))
        assert satisfied(tokens, rules).tolist() == expected and len(set(expected)) == 2

"""The losses of non-autoregressive decoders: what is masked, and nothing else, is learned."""

import math

import pytest
import torch

from src.models.decoder import END, PAD, UNK, word_counts
from src.training.losses import alignment_loss
from src.training.masked_losses import fill_masked, masked_losses
from tests.helpers.plain_ctc import (
    NON_AUTOREGRESSIVE,
    by_alignments,
    captions,
    random_decoder,
    random_emissions,
    uniforms,
)
from tests.helpers.plain_decoding import VOCABULARY, photos

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_loss_of_alignments_is_the_sum_over_them():
    log_probs, blank = random_emissions(6, 5, 3)
    log_probs = log_probs.double().requires_grad_()
    targets = torch.tensor(
        [[3, 6, 4, 6, 6], [5, 5, 6, 5, 6], [3, 4, 5, 3, 4], [6, 6, 6, 4, 6], [4, 6, 4, 0, 0], [0, 0, 0, 0, 0]]
    )
    tokens = torch.tensor([[3, 4, 2, 0, 0, 0], [5, 5, 2, 0, 0, 0], [3, 4, 5, 3, 4, 2], [4, 2, 0, 0, 0, 0],
                           [4, 4, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]])  # fmt: skip
    for trial in range(4):
        masked = (torch.rand(6, 5) < (1.0 if trial == 0 else 0.6)) & (targets != PAD)
        loss = alignment_loss(log_probs, targets, masked, tokens, blank)
        for row in range(5):
            length = int((targets[row] != PAD).sum())
            shown = {p: int(targets[row, p]) for p in range(length) if not masked[row, p]}
            words = tuple(token for token in tokens[row].tolist() if token > END)
            expected = by_alignments(log_probs[row, :length], blank, shown)[words]
            assert loss[row].item() == pytest.approx(-math.log(expected), abs=1e-6)
        assert loss[5] == 0
        (gradient,) = torch.autograd.grad(loss.sum(), log_probs, retain_graph=True)
        assert gradient.isfinite().all() and not gradient[~masked].any()
    too_long = alignment_loss(log_probs[:1], targets[1:2], torch.ones(1, 5, dtype=torch.bool), captions([6], 6), blank)
    assert too_long.isinf().all(), "a caption that does not fit must not be free"


@pytest.mark.parametrize("upsample", [2, 5])
def test_the_gradient_of_alignments_is_that_of_torch_s_loss(upsample):
    """Of every logit, where all symbols are masked: equal neighbours, words of one letter and no caption among them."""
    decoder, tokens = random_decoder("ctc_mask_predict", upsample=upsample), captions([5, 3, 1, 0, 6])
    tokens[0, :3], tokens[4, 1:5] = 4, 5
    canvas, _ = decoder.mask_tokens(tokens, uniforms(decoder, tokens))
    logits = torch.randn(*canvas.shape, VOCABULARY + 1, requires_grad=True)
    log_probs, words, places = logits.log_softmax(2), word_counts(tokens), (canvas != PAD).sum(1)
    loss = alignment_loss(log_probs, canvas, canvas != PAD, tokens, decoder.blank)
    plain = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), tokens, places, words, decoder.blank, reduction="none", zero_infinity=True
    )
    torch.testing.assert_close(loss[words > 0], plain[words > 0], rtol=1e-5, atol=1e-5)
    weights = torch.rand(5) * (words > 0)
    gradient, expected = (
        torch.autograd.grad((each * weights).sum(), logits, retain_graph=True)[0] for each in (loss, plain)
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    assert gradient[words > 0].abs().amax((1, 2)).min() > 1e-3 and not gradient[words == 0].any()


@pytest.mark.parametrize("upsample", [2, 3])
def test_words_of_an_alignment_are_where_their_number_puts_them(upsample):
    decoder, tokens = random_decoder("ctc_mask_predict", upsample=upsample), captions([5, 0, 1, 7])
    numbers = uniforms(decoder, tokens)
    numbers[:, 0] = torch.tensor([0.0, 0.4, 1 - 2**-24, 0.5])
    for rows, width in ((slice(None), 7), (slice(0, 3), 7), (slice(1, 2), 7)):  # a part of a batch is as wide as all
        canvas, masked = decoder.mask_tokens(tokens[rows], numbers[rows])
        assert canvas.shape == masked.shape == (len(tokens[rows]), width * upsample)
        for caption, row, line, hidden in zip(tokens[rows], numbers[rows], canvas, masked, strict=True):
            words = [token for token in caption.tolist() if token > END]
            expected = [decoder.blank] * (upsample * len(words)) + [PAD] * (upsample * (width - len(words)))
            places = [math.floor((word + row[0].item()) * upsample) for word in range(len(words))]
            for place, word in zip(places, words, strict=True):
                expected[place] = word
            assert line.tolist() == expected
            assert torch.equal(hidden | (line > END) & (line != decoder.blank), line != PAD), "all blanks are masked"
            assert not words or 1 <= hidden[places].sum() <= len(words)
    empty, _ = decoder.mask_tokens(torch.zeros(2, 1, dtype=torch.long), torch.rand(2, 4))
    assert not empty.any()


@pytest.mark.parametrize("name", NON_AUTOREGRESSIVE)
def test_no_visible_word_is_in_the_loss_and_no_masked_one_in_the_input(name):
    decoder, features, tokens = random_decoder(name), photos(3), captions([5, 3, 6])
    numbers = uniforms(decoder, tokens)
    targets, masked = decoder.mask_tokens(tokens, numbers)
    log_probs = decoder.predict_masked(decoder.encode(features), targets.masked_fill(masked, decoder.mask))
    other = targets.clone()
    other[masked] = torch.randint(UNK + 1, VOCABULARY, (int(masked.sum()),))
    again = decoder.predict_masked(decoder.encode(features), other.masked_fill(masked, decoder.mask))
    assert torch.equal(log_probs, again), "a masked token is seen"
    log_probs.retain_grad()
    original, decoder.predict_masked = decoder.predict_masked, lambda *_: log_probs
    masked_losses(decoder, features, tokens, numbers, 0.0)[0].sum().backward()
    touched = log_probs.grad.abs().sum(2) > 0
    assert torch.equal(touched, masked), "the loss is not that of the masked positions"
    decoder.predict_masked = original
    visible = fill_masked(decoder, features, tokens, numbers, 20)
    if name == "mask_predict":
        shown = ~masked[:, : tokens.shape[1]]
        assert torch.equal(visible[:, : tokens.shape[1]][shown], tokens[shown])
        best = log_probs[:, :, UNK + 1 :].argmax(2) + UNK + 1
        assert torch.equal(visible[:, : tokens.shape[1]][masked], best[masked])


@torch.no_grad()
def test_the_loss_of_words_is_smoothed_cross_entropy():
    decoder, features, tokens = random_decoder("mask_predict"), photos(3), captions([5, 3, 6])
    numbers = uniforms(decoder, tokens)
    targets, masked = decoder.mask_tokens(tokens, numbers)
    log_probs = decoder.predict_masked(decoder.encode(features), targets.masked_fill(masked, decoder.mask))
    for smoothing in (0.0, 0.1):
        loss, _ = masked_losses(decoder, features, tokens, numbers, smoothing)
        for row in range(3):
            expected = torch.nn.functional.cross_entropy(
                log_probs[row][masked[row]], targets[row][masked[row]], reduction="sum", label_smoothing=smoothing
            )
            torch.testing.assert_close(loss[row], expected)

"""The losses of non-autoregressive decoders: what is masked, and nothing else, is learned."""

import math

import pytest
import torch

from src.models.decoder import END, PAD, UNK
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

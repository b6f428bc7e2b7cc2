"""The protocol of non-autoregressive decoders: parallel prediction, lengths, and what training masks."""

import math

import pytest
import torch

from src.decoding.ctc_search import collapse
from src.models.ctc import clamped_emissions, ctc_token_log_probs
from src.models.decoder import PAD
from tests.helpers.plain_ctc import NON_AUTOREGRESSIVE, captions, random_decoder, uniforms
from tests.helpers.plain_decoding import VOCABULARY, photos

pytestmark = pytest.mark.usefixtures("seeded")
all_decoders = pytest.mark.parametrize("name", NON_AUTOREGRESSIVE)
both_lengths = pytest.mark.parametrize("length", ["regression", "classification"])


@both_lengths
@all_decoders
@torch.no_grad()
def test_predictions_are_distributions_that_neither_batch_nor_padding_changes(name, length):
    decoder, features = random_decoder(name, length=length), photos(4)
    encoded, words = decoder.encode(features), torch.tensor([1, 4, 2, 5])
    targets = decoder.fully_masked(words)
    assert torch.equal((targets == decoder.mask).sum(1), decoder.target_length(words))
    assert targets[3].eq(decoder.mask).all()
    log_probs = decoder.predict_masked(encoded, targets)
    assert torch.allclose(log_probs.exp().sum(2), torch.ones(targets.shape), atol=1e-5)
    assert log_probs.shape[2] == VOCABULARY + (decoder.blank is not None), "the mask is no output"
    photo = decoder.encode(features.select(torch.tensor([2])))
    alone = decoder.predict_masked(photo, targets[2:3, : int(decoder.target_length(words[2]))])
    torch.testing.assert_close(log_probs[2, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    repeated = decoder.predict_masked(encoded, targets.repeat_interleave(3, 0))
    torch.testing.assert_close(repeated[4], log_probs[1], atol=1e-5, rtol=1e-5)


@both_lengths
@all_decoders
@torch.no_grad()
def test_log_prob_is_that_of_a_single_pass_over_masks(name, length):
    decoder, features, tokens = random_decoder(name, length=length), photos(4), captions([4, 2, 0, 5])
    tokens[2] = PAD
    lengths = decoder.length_log_probs(decoder.encode(features))
    assert lengths[:, 0].isinf().all() and torch.allclose(lengths.exp().sum(1), torch.ones(4), atol=1e-5)
    log_prob = decoder.log_prob(features, tokens)
    assert not log_prob[tokens == PAD].any() and (log_prob[tokens != PAD] < 0).all()
    for row, words in ((0, 4), (3, 5)):
        photo = decoder.encode(features.select(torch.tensor([row])))
        targets = decoder.fully_masked(torch.tensor([words if decoder.blank is None else int(lengths[row].argmax())]))
        each = decoder.predict_masked(photo, targets)
        if decoder.blank is None:
            expected = sum(each[0, p, tokens[row, p]] for p in range(words)) + lengths[row, words]
        else:
            emissions = clamped_emissions(each, targets, decoder.blank)
            expected = ctc_token_log_probs(emissions, decoder.blank, tokens[row : row + 1]).sum()
        torch.testing.assert_close(log_prob[row].sum(), expected, atol=1e-4, rtol=1e-4)


@both_lengths
def test_length_losses_are_negative_log_likelihoods(length):
    decoder, words = random_decoder("mask_predict", length=length), torch.tensor([1, 4, 2, 7])
    encoded = decoder.encode(photos(4))
    loss, log_probs = decoder.length_loss(encoded, words), decoder.length_log_probs(encoded)
    log_prob = log_probs.gather(1, words.unsqueeze(1)).squeeze(1)
    if length == "classification":
        torch.testing.assert_close(loss, -log_prob)
    else:  # of a Gaussian with unit variance
        torch.testing.assert_close(loss / 2 + 0.5 * math.log(2 * math.pi), -log_prob, atol=2e-3, rtol=2e-3)
        assert log_probs.argmax(1).sub(encoded.length.squeeze(1)).abs().max() <= 0.5


@pytest.mark.parametrize("upsample", [2, 3])
@torch.no_grad()
def test_training_alignments_collapse_to_their_captions(upsample):
    decoder = random_decoder("ctc_mask_predict", upsample=upsample)
    tokens = captions([1, 2, 7, 12, 12, 3, 40])
    tokens[3, :12] = 5  # one word twelve times
    tokens[4, 4:6] = 6
    tokens[5] = PAD
    tokens[6, :40] = torch.arange(40) % 8 + 4
    rows, offsets = [0, 1, 2, 3, 4, 6], set()
    for _ in range(30):
        targets, masked = decoder.mask_tokens(tokens, uniforms(decoder, tokens))
        assert torch.equal(collapse(targets, decoder.blank, tokens.shape[1])[rows], tokens[rows])
        length = (targets != PAD).sum(1)
        assert length.tolist() == [upsample * words for words in (1, 2, 7, 12, 12, 0, 40)]
        assert (masked.sum(1) >= (length > 0).long()).all() and not masked[targets == PAD].any()
        assert masked[targets == decoder.blank].all()
        offsets.add(int((targets[2] != decoder.blank).nonzero()[0, 0]))
    assert offsets == set(range(upsample)), "the words always have one offset"


def test_a_uniform_number_of_words_is_masked_at_random_positions():
    decoder, tokens = random_decoder("mask_predict"), captions([5] * 4000)
    targets, masked = decoder.mask_tokens(tokens, uniforms(decoder, tokens))
    assert torch.equal(targets[:, :5], tokens[:, :5]) and not targets[:, 5].any()
    counts = masked.sum(1).bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 800).abs().max() < 120
    assert (masked[masked.sum(1) == 1].float().mean(0)[:5] - 0.2).abs().max() < 0.07

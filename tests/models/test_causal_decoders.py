"""The protocol of causal decoders, for every one of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from src.base.errors import InputError
from src.decoding.beam import greedy
from src.decoding.constraints import Constraints
from src.models.captioner import build_decoder
from src.models.decoder import END, PAD, START, CausalDecoder, TeacherForced, shift_right
from src.models.features import Features
from src.settings.schema import DecoderSettings
from tests.helpers.causal_decoders import (
    ATTENDING,
    ATTENTION,
    GRID,
    RECURRENT,
    TRANSFORMER,
    UPDOWN,
    VOCABULARY,
    WIDTH,
    built,
    captions,
    captions_share_a_photo,
    features,
)
from tests.helpers.plain_decoding import teacher_forced_log_probs

pytestmark = pytest.mark.usefixtures("seeded")


def name_of(settings: DecoderSettings) -> str:
    if settings.name == "recurrent":
        return f"recurrent-{settings.cell}-{settings.image}-{settings.layers}"
    return f"{settings.name}-{settings.cell}-{settings.project}-{settings.gate}-{settings.layers}"


every_decoder = pytest.mark.parametrize("settings", RECURRENT + ATTENDING, ids=name_of)
attending_decoders = pytest.mark.parametrize("settings", ATTENDING, ids=name_of)


@every_decoder
@torch.no_grad()
def test_steps_give_the_numbers_of_teacher_forcing(settings):
    """After every kind of reorder: repeated, swapped within a photo, dropped, unequally many per photo, any order."""
    decoder, photos = built(settings), features()
    orders = [[0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 2, 2, 5, 4, 7, 6], [0, 1, 4, 5, 7, 7], [0, 1, 1, 2, 4], [4, 0, 3, 0]]
    photo, state, tokens = torch.arange(4), decoder.start(photos), torch.empty(4, 0, dtype=torch.long)
    log_probs, weights = torch.empty(4, 0, VOCABULARY), torch.empty(4, 0, 6)
    inputs = torch.full((4,), START)
    for order in [*orders, None]:
        step, state = decoder.step(inputs, state)
        attention = torch.zeros(len(step), 6) if state.attention is None else state.attention
        log_probs, weights = torch.cat([log_probs, step[:, None]], 1), torch.cat([weights, attention[:, None]], 1)
        if order is not None:
            index = torch.tensor(order)
            photo, log_probs, weights, tokens = photo[index], log_probs[index], weights[index], tokens[index]
            state, inputs = decoder.reorder(state, index), torch.randint(4, VOCABULARY, (len(index),))
            assert state.attention is None or torch.equal(state.attention, weights[:, -1])
            tokens = torch.cat([tokens, inputs[:, None]], 1)
    tokens = torch.cat([tokens, torch.full((4, 1), END)], 1)
    expected = teacher_forced_log_probs(decoder, photos.select(photo), tokens)
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected.exp().sum(-1), torch.ones(4, 6))
    attention = decoder.teacher_forced(photos.select(photo), shift_right(tokens)).attention
    assert (attention is None) == (settings.name == "recurrent")
    if attention is not None:
        torch.testing.assert_close(weights, attention, atol=1e-5, rtol=1e-5)


def memory_of(state):
    return state.memory if isinstance(state.memory, tuple) else (state.memory,)


@pytest.mark.parametrize("settings", [ATTENTION[0], UPDOWN[0], TRANSFORMER[1]], ids=lambda s: s.name)
@torch.no_grad()
def test_beams_of_a_photo_share_its_memory(settings):
    decoder = built(settings)
    state = decoder.reorder(decoder.start(features()), torch.arange(4).repeat_interleave(5))
    _, state = decoder.step(torch.full((20,), START), state)
    swapped = decoder.reorder(state, torch.arange(20).view(4, 5).flip(1).flatten())
    fewer = decoder.reorder(swapped, torch.arange(5, 15))
    for before, same, less in zip(*map(memory_of, (state, swapped, fewer)), strict=True):
        assert same is before and len(less) == 2
        assert torch.equal(less.keys, before.keys[1:3]) and torch.equal(less.values, before.values[1:3])
    decoder.reorder(fewer, torch.empty(0, dtype=torch.long))


@every_decoder
@torch.no_grad()
def test_a_token_depends_on_the_photo_and_the_tokens_before_it_only(settings):
    decoder, photos, tokens = built(settings), features(), captions()
    log_probs, log_prob = teacher_forced_log_probs(decoder, photos, tokens), decoder.log_prob(photos, tokens)
    torch.testing.assert_close(log_prob, log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2) * (tokens != PAD))
    for position in range(tokens.shape[1] - 1):
        changed = tokens.clone()
        changed[:, position] = 4 + (tokens[:, position] - 3) % (VOCABULARY - 4)
        other = teacher_forced_log_probs(decoder, photos, changed)
        torch.testing.assert_close(other[:, : position + 1], log_probs[:, : position + 1], atol=1e-6, rtol=1e-6)
        assert ((other - log_probs)[:, position + 1].abs().amax(1) > 1e-4).all()
    padded = decoder.log_prob(photos, torch.cat([tokens, torch.full((4, 5), PAD)], dim=1))
    torch.testing.assert_close(padded[:, :7], log_prob, atol=1e-6, rtol=1e-6)
    assert not padded[:, 7:].any()
    alone = teacher_forced_log_probs(decoder, photos.select(torch.tensor([2])), tokens[2:3])
    torch.testing.assert_close(alone, log_probs[2:3])
    grid, pooled = photos.grid + torch.randn(4, 6, WIDTH), photos.pooled + torch.randn(4, WIDTH)
    difference = (decoder.log_prob(Features(grid, photos.mask, GRID, pooled), tokens) - log_prob).abs().amax(1)
    assert (difference[:3] > 1e-3).all(), "the photo has no influence"
    assert (difference[3] == 0) == (settings.name != "recurrent"), "attention to no cells at all has no context"


@every_decoder
def test_several_captions_of_a_photo_are_as_if_each_had_its_own(settings):
    captions_share_a_photo(built(settings), features(), captions(), 3e-6)


@every_decoder
def test_padding_left_out_changes_neither_outputs_nor_gradients(settings):
    decoder, photos, tokens = built(settings), features(), captions()
    tokens = torch.cat([tokens, tokens[:2]])
    photo = torch.tensor([0, 1, 2, 3, 0, 0])
    order = (tokens != PAD).sum(1).argsort(descending=True, stable=True)
    tokens, photo = tokens[order], photo[order]
    words, inputs = tokens != PAD, shift_right(tokens)
    results = []
    for batch_sizes in (None, words.sum(0).tolist()):
        decoder.zero_grad()
        forced = decoder.teacher_forced(photos, inputs, photo, batch_sizes)
        logits = forced.logits_at(words)
        torch.testing.assert_close(logits, forced.logits[words])
        loss = logits.square().sum()
        if forced.attention is not None:
            loss = loss + forced.attention[words].square().sum()
        loss.backward()
        results.append((logits, [parameter.grad for parameter in decoder.parameters()]))
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)


@attending_decoders
def test_masked_cells_have_no_influence(settings):
    decoder, photos, tokens = built(settings), features(), captions()
    mask = photos.mask.unsqueeze(2)
    photos.grid.requires_grad_()
    forced = decoder.teacher_forced(photos, shift_right(tokens))
    torch.testing.assert_close(forced.attention.sum(2), photos.mask.any(1, keepdim=True).float().expand(4, 7))
    assert forced.attention.shape == (4, 7, 6) and forced.attention.dtype == torch.float32
    assert (forced.attention >= 0).all() and not forced.attention[~photos.mask[:, None].expand(4, 7, 6)].any()
    assert forced.attention.std(1)[0].max() > 0.01, "it attends to the same cells at each word"
    (forced.logits.square().sum() + forced.attention.square().sum()).backward()
    gradient = photos.grid.grad
    assert torch.equal(gradient.flatten(1).any(1), photos.mask.any(1)) and not gradient[~photos.mask].any()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    other = torch.where(mask, photos.grid, 1e4 * torch.randn(4, 6, WIDTH)).detach()
    again = decoder.teacher_forced(Features(other, photos.mask, GRID, torch.zeros(4, WIDTH)), shift_right(tokens))
    torch.testing.assert_close(again.logits, forced.logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(again.attention, forced.attention, atol=1e-6, rtol=1e-6)
    dropped = decoder.train().teacher_forced(photos, shift_right(tokens)).logits
    assert (dropped - forced.logits).abs().amax(2).min() > 1e-3, "no dropout"


@every_decoder
def test_half_precision_stays_near(settings):
    decoder, photos, tokens = built(settings), features(), captions()
    exact = decoder.log_prob(photos, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forced = decoder.teacher_forced(photos, shift_right(tokens))
        log_prob = decoder.log_prob(photos, tokens)
        log_probs, state = decoder.step(torch.full((4,), START), decoder.start(photos))
        log_probs, state = decoder.step(tokens[:, 0], decoder.reorder(state, torch.arange(4)))
    assert log_probs.dtype == log_prob.dtype == torch.float32
    if settings.name != "recurrent":
        assert forced.attention.dtype == state.attention.dtype == torch.float32
    assert (log_prob - exact).abs().mean() < 0.05
    log_prob.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("dtype", "computed"), [(torch.bfloat16, (torch.float32, False)), (torch.float16, (torch.float16, True))]
)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_cells_on_gpus_know_no_bf16(cell, dtype, computed, monkeypatch):
    """torch would run them in fp16; here they get tensors of a GPU that is not there, and compute nothing."""
    decoder, seen = built(DecoderSettings(name="recurrent", cell=cell)), []

    def keep(inputs, hidden):
        seen.extend((each.dtype, torch.is_autocast_enabled("cuda")) for each in (inputs, *hidden))

    monkeypatch.setattr(decoder, "_cell", keep)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        with FakeTensorMode():
            zeros = torch.zeros(1, 3, 8, dtype=dtype, device="cuda")
            decoder._run(zeros, (zeros, zeros))
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    assert seen == [computed] * 3


@pytest.mark.parametrize(
    "settings", [RECURRENT[0], RECURRENT[6], ATTENTION[0], ATTENTION[4], UPDOWN[0], TRANSFORMER[0]], ids=name_of
)
def test_learns_captions_by_heart(settings):
    """Eight photos, eight captions: greedy search returns them."""
    settings = replace(settings, hidden=32, embedding=32, heads=4, layers=1, dropout=0.0)
    decoder, tokens = build_decoder(settings, VOCABULARY, WIDTH), captions(8, 8)
    photos = Features(torch.randn(8, 6, WIDTH), torch.ones(8, 6, dtype=torch.bool), GRID, torch.randn(8, WIDTH))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01 if settings.name != "transformer" else 0.003)
    for _ in range(100):
        optimizer.zero_grad()
        (-decoder.log_prob(photos, tokens).sum() / (tokens != PAD).sum()).backward()
        optimizer.step()
    written = greedy(decoder.eval(), photos, Constraints(minimum_words=1, maximum_words=8)).tokens[:, 0]
    written = nn.functional.pad(written, (0, 9))[:, :8]
    assert (written == tokens)[tokens != PAD].float().mean() > 0.99
    assert not decoder.embedding.weight[PAD].any()


class Copier(CausalDecoder):
    """Predicts its input: what a network learns whose targets are not shifted."""

    def teacher_forced(self, features, inputs, photo=None, batch_sizes=None):
        return TeacherForced(20.0 * nn.functional.one_hot(inputs, VOCABULARY).float(), nn.Identity())

    def start(self, features):
        raise NotImplementedError

    step = reorder = start


def test_a_decoder_that_copies_its_input_scores_badly():
    tokens = captions(count=64)
    repeated = (tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != PAD)
    tokens[:, 1:][repeated] = 3
    log_probs = Copier().log_prob(features(64), tokens)
    loss = -log_probs.sum() / (tokens != PAD).sum()
    assert loss > 3 * torch.tensor(float(VOCABULARY)).log(), "no worse than a uniform guess"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (DecoderSettings(name="attention", layers=2), "decoder.layers=2"),
        (DecoderSettings(name="updown", layers=2), "decoder.layers=2"),
        (DecoderSettings(name="transformer", hidden=100, heads=8), "decoder.hidden=100 .* decoder.heads=8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        build_decoder(settings, VOCABULARY, WIDTH)

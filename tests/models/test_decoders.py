"""The captioners that look at cells of the photo: attention, updown, transformer."""

import math

import pytest
import torch
from torch import nn

from src.base.errors import InputError
from src.decoding.beam import greedy
from src.decoding.constraints import Constraints
from src.models.captioner import build_decoder
from src.models.decoder import END, PAD, START, shift_right
from src.models.features import Features
from src.models.transformer import boxes, sinusoids
from src.settings.schema import DecoderSettings
from tests.helpers.plain_decoding import teacher_forced_log_probs

pytestmark = pytest.mark.usefixtures("seeded")

VOCABULARY, WIDTH, GRID = 15, 6, (2, 3)
SMALL = {"hidden": 16, "embedding": 8, "attention": 7, "heads": 4, "feedforward": 24}
ATTENTION = [
    DecoderSettings(name="attention", cell=cell, project=project, gate=gate, **SMALL)
    for cell in ("lstm", "gru")
    for project, gate in ((None, True), (5, True), (None, False))
]
UPDOWN = [DecoderSettings(name="updown", project=project, **SMALL) for project in (None, 5)]
TRANSFORMER = [
    DecoderSettings(name="transformer", layers=1, **SMALL),
    DecoderSettings(name="transformer", layers=3, **SMALL | {"hidden": 15, "heads": 5}),
]
ALL = ATTENTION + UPDOWN + TRANSFORMER
every_decoder = pytest.mark.parametrize(
    "settings", ALL, ids=lambda s: f"{s.name}-{s.cell}-{s.project}-{s.gate}-{s.layers}"
)


def features(count: int = 4) -> Features:
    """Photos of 6, 4, 1 and no cells, and so on."""
    cells = torch.tensor([6, 4, 1, 0]).repeat(count)[:count]
    mask = torch.rand(count, 6).argsort(1) < cells.unsqueeze(1)
    return Features(torch.randn(count, 6, WIDTH), mask, GRID, torch.randn(count, WIDTH))


def captions(count: int = 4, length: int = 7) -> torch.Tensor:
    tokens = torch.randint(4, VOCABULARY, (count, length))
    for row in range(count):
        end = length - 1 - row % 3
        tokens[row, end], tokens[row, end + 1 :] = END, PAD
    return tokens


def built(settings: DecoderSettings):
    """With weights far from their start, so that attention is not nearly even."""
    decoder = build_decoder(settings, VOCABULARY, WIDTH).eval()
    for parameter in decoder.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return decoder


@every_decoder
@torch.no_grad()
def test_steps_give_the_numbers_of_teacher_forcing(settings):
    """Through every kind of reordering: beams, beams exchanged, photos dropped, unequally many captions, any order."""
    decoder, seen = built(settings), features()
    orders = [[0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 2, 2, 5, 4, 7, 6], [0, 1, 4, 5, 7, 7], [0, 1, 1, 2, 4], [4, 0, 3, 0]]
    photo, state, tokens = torch.arange(4), decoder.start(seen), torch.empty(4, 0, dtype=torch.long)
    said, looked = torch.empty(4, 0, VOCABULARY), torch.empty(4, 0, 6)
    fed = torch.full((4,), START)
    for order in [*orders, None]:
        log_probs, state = decoder.step(fed, state)
        said, looked = torch.cat([said, log_probs[:, None]], 1), torch.cat([looked, state.attention[:, None]], 1)
        if order is not None:
            index = torch.tensor(order)
            photo, said, looked, tokens = photo[index], said[index], looked[index], tokens[index]
            state, fed = decoder.reorder(state, index), torch.randint(4, VOCABULARY, (len(index),))
            assert torch.equal(state.attention, looked[:, -1])
            tokens = torch.cat([tokens, fed[:, None]], 1)
    tokens = torch.cat([tokens, torch.full((4, 1), END)], 1)
    whole = teacher_forced_log_probs(decoder, seen.select(photo), tokens)
    torch.testing.assert_close(said, whole, atol=1e-5, rtol=1e-5)
    attention = decoder.teacher_forced(seen.select(photo), shift_right(tokens)).attention
    torch.testing.assert_close(looked, attention, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(4, 6))


def memory_of(state):
    return state.memory if isinstance(state.memory, tuple) else (state.memory,)


@pytest.mark.parametrize("settings", [ATTENTION[0], UPDOWN[0], TRANSFORMER[1]], ids=lambda s: s.name)
@torch.no_grad()
def test_beams_of_a_photo_share_its_cells(settings):
    decoder = built(settings)
    state = decoder.reorder(decoder.start(features()), torch.arange(4).repeat_interleave(5))
    _, state = decoder.step(torch.full((20,), START), state)
    kept = decoder.reorder(state, torch.arange(20).view(4, 5).flip(1).flatten())
    fewer = decoder.reorder(kept, torch.arange(5, 15))
    for before, same, less in zip(*map(memory_of, (state, kept, fewer)), strict=True):
        assert same is before and len(less) == 2
        assert torch.equal(less.keys, before.keys[1:3]) and torch.equal(less.values, before.values[1:3])
    decoder.reorder(fewer, torch.empty(0, dtype=torch.long))


@every_decoder
@torch.no_grad()
def test_causality_padding_and_photo(settings):
    decoder, seen, tokens = built(settings), features(), captions()
    whole, chosen = teacher_forced_log_probs(decoder, seen, tokens), decoder.log_prob(seen, tokens)
    torch.testing.assert_close(chosen, whole.gather(2, tokens.unsqueeze(2)).squeeze(2) * (tokens != PAD))
    for place in range(tokens.shape[1] - 1):
        changed = tokens.clone()
        changed[:, place] = 4 + (tokens[:, place] - 3) % (VOCABULARY - 4)
        other = teacher_forced_log_probs(decoder, seen, changed)
        torch.testing.assert_close(other[:, : place + 1], whole[:, : place + 1], atol=1e-6, rtol=1e-6)
        assert ((other - whole)[:, place + 1].abs().amax(1) > 1e-4).all()
    padded = torch.cat([tokens, torch.full((4, 5), PAD)], dim=1)
    longer = decoder.log_prob(seen, padded)
    torch.testing.assert_close(longer[:, :7], chosen, atol=1e-6, rtol=1e-6)
    assert not longer[:, 7:].any()
    torch.testing.assert_close(
        teacher_forced_log_probs(decoder, seen.select(torch.tensor([2])), tokens[2:3]), whole[2:3]
    )
    moved = Features(seen.grid + torch.randn(4, 6, WIDTH), seen.mask, GRID, seen.pooled)
    difference = (decoder.log_prob(moved, tokens) - chosen).abs().amax(1)
    assert (difference[:3] > 1e-3).all(), "the photo has no say"
    assert difference[3] == 0, "a photo without cells shows nothing"


@every_decoder
def test_masked_cells_have_no_influence(settings):
    decoder, seen, tokens = built(settings), features(), captions()
    mask = seen.mask.unsqueeze(2)
    seen.grid.requires_grad_()
    forced = decoder.teacher_forced(seen, shift_right(tokens))
    torch.testing.assert_close(forced.attention.sum(2), seen.mask.any(1, keepdim=True).float().expand(4, 7))
    assert forced.attention.shape == (4, 7, 6) and forced.attention.dtype == torch.float32
    assert (forced.attention >= 0).all() and not forced.attention[~seen.mask[:, None].expand(4, 7, 6)].any()
    assert forced.attention.std(1)[0].max() > 0.01, "it looks at the same cells at each word"
    (forced.logits.square().sum() + forced.attention.square().sum()).backward()
    gradient = seen.grid.grad
    assert torch.equal(gradient.flatten(1).any(1), seen.mask.any(1)) and not gradient[~seen.mask].any()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    other = torch.where(mask, seen.grid, 1e4 * torch.randn(4, 6, WIDTH)).detach()
    again = decoder.teacher_forced(Features(other, seen.mask, GRID, torch.zeros(4, WIDTH)), shift_right(tokens))
    torch.testing.assert_close(again.logits, forced.logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(again.attention, forced.attention, atol=1e-6, rtol=1e-6)
    dropped = decoder.train().teacher_forced(seen, shift_right(tokens)).logits
    assert (dropped - forced.logits).abs().amax(2).min() > 1e-3, "no dropout"


@every_decoder
def test_half_precision_stays_near(settings):
    decoder, seen, tokens = built(settings), features(), captions()
    exact = decoder.log_prob(seen, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forced = decoder.teacher_forced(seen, shift_right(tokens))
        log_prob = decoder.log_prob(seen, tokens)
        log_probs, state = decoder.step(torch.full((4,), START), decoder.start(seen))
        log_probs, state = decoder.step(tokens[:, 0], decoder.reorder(state, torch.arange(4)))
    assert forced.attention.dtype == state.attention.dtype == log_probs.dtype == log_prob.dtype == torch.float32
    assert (log_prob - exact).abs().mean() < 0.05
    log_prob.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


def library_cell(cell, *inputs: nn.Linear):
    """torch's LSTM or GRU cell over the concatenated inputs, with the same weights."""
    width = sum(linear.in_features for linear in inputs)
    same = (nn.LSTMCell if cell.lstm else nn.GRUCell)(width, cell.recurrence.in_features)
    same.weight_ih.data = torch.cat([linear.weight for linear in inputs], 1)
    same.weight_hh.data, same.bias_hh.data = cell.recurrence.weight, cell.recurrence.bias
    nn.init.zeros_(same.bias_ih)
    return same


def plain_attention(attention, state: torch.Tensor, regions: list[torch.Tensor]) -> torch.Tensor:
    """Bahdanau et al. 2015, appendix A.1.2, region by region."""
    energies = []
    for region in regions:
        inner = attention.keys.weight @ region + attention.keys.bias + attention.query.weight @ state
        energies.append(float(attention.score.weight[0] @ torch.tanh(inner)))
    total = sum(math.exp(energy) for energy in energies)
    return sum(math.exp(energy) / total * region for energy, region in zip(energies, regions, strict=True))


def regions_of(decoder, seen: Features, photo: int) -> list[torch.Tensor]:
    cells = [cell for cell, held in zip(seen.grid[photo], seen.mask[photo], strict=True) if held]
    if not isinstance(decoder.project, nn.Identity):
        linear = decoder.project[0]
        cells = [(linear.weight @ cell + linear.bias).clamp(min=0) for cell in cells]
    return cells


def plain_show_attend_tell(decoder, seen: Features, inputs: torch.Tensor) -> torch.Tensor:
    """Xu et al. 2015, equations 1 to 6 and 13, β of section 4.2.1, photo by photo and word by word: logits."""
    cell, logits = (
        library_cell(decoder.cell, decoder.word_input, decoder.context_input),
        torch.empty(*inputs.shape, VOCABULARY),
    )
    for photo in range(len(seen)):
        regions = regions_of(decoder, seen, photo)
        begin = torch.tanh(decoder.initial.weight @ (sum(regions) / len(regions)) + decoder.initial.bias)
        h, c = begin[: SMALL["hidden"]], begin[SMALL["hidden"] :]
        for place, token in enumerate(inputs[photo]):
            context = plain_attention(decoder.attention, h, regions)
            if decoder.gate is not None:
                context = context / (1 + torch.exp(-(decoder.gate.weight @ h + decoder.gate.bias)))
            fed = torch.cat([decoder.embedding.weight[token], context])
            h, c = cell(fed, (h, c)) if decoder.cell.lstm else (cell(fed, h), c)
            logits[photo, place] = decoder.output.weight @ h + decoder.output.bias
    return logits


def plain_up_down(decoder, seen: Features, inputs: torch.Tensor) -> torch.Tensor:
    """Anderson et al. 2018, equations 1 to 7, photo by photo and word by word: logits."""
    logits = torch.empty(*inputs.shape, VOCABULARY)
    first = library_cell(decoder.attention_lstm, decoder.language_input, decoder.mean_input, decoder.word_input)
    second = library_cell(decoder.language_lstm, decoder.context_input, decoder.attention_input)
    for photo in range(len(seen)):
        regions = regions_of(decoder, seen, photo)
        h1 = c1 = h2 = c2 = torch.zeros(SMALL["hidden"])
        for place, token in enumerate(inputs[photo]):
            fed = torch.cat([h2, sum(regions) / len(regions), decoder.embedding.weight[token]])
            h1, c1 = first(fed, (h1, c1))
            h2, c2 = second(torch.cat([plain_attention(decoder.attention, h1, regions), h1]), (h2, c2))
            logits[photo, place] = decoder.output.weight @ h2 + decoder.output.bias
    return logits


@pytest.mark.parametrize("settings", ATTENTION + UPDOWN, ids=lambda s: f"{s.name}-{s.cell}-{s.project}-{s.gate}")
@torch.no_grad()
def test_recurrent_ones_are_the_formulas_of_the_papers(settings):
    decoder, seen, inputs = built(settings), features(3), shift_right(captions(3))
    plain = plain_show_attend_tell if settings.name == "attention" else plain_up_down
    expected = plain(decoder, seen, inputs)
    torch.testing.assert_close(decoder.teacher_forced(seen, inputs).logits, expected, atol=1e-5, rtol=1e-5)


def library_layer(layer, hidden: int, heads: int) -> nn.TransformerDecoderLayer:
    same = nn.TransformerDecoderLayer(
        hidden, heads, layer.feedforward[0].out_features, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    for copy, own in (
        (same.self_attn.in_proj_weight, layer.self_qkv.weight),
        (same.self_attn.in_proj_bias, layer.self_qkv.bias),
        (same.multihead_attn.in_proj_weight, torch.cat([layer.cross_query.weight, layer.cross_key_value.weight])),
        (same.multihead_attn.in_proj_bias, torch.cat([layer.cross_query.bias, layer.cross_key_value.bias])),
    ):
        copy.data = own.data
    same.self_attn.out_proj, same.multihead_attn.out_proj = layer.self_output, layer.cross_output
    same.linear1, same.linear2 = layer.feedforward[0], layer.feedforward[2]
    same.norm1, same.norm2, same.norm3 = layer.norms
    return same


@pytest.mark.parametrize("settings", TRANSFORMER, ids=lambda s: f"{s.layers}")
@torch.no_grad()
def test_transformer_is_that_of_the_library(settings):
    decoder, seen, tokens = built(settings), features(3), shift_right(captions(3))
    hidden = settings.hidden
    words = decoder.embedding(tokens) * hidden**0.5
    for place in range(7):
        for i in range(hidden):
            angle = place / 10000 ** (2 * (i // 2) / hidden)
            words[:, place, i] += math.cos(angle) if i % 2 else math.sin(angle)
    corners = torch.tensor([[x / 3, y / 2, (x + 1) / 3, (y + 1) / 2] for y in range(2) for x in range(3)])
    torch.testing.assert_close(boxes(seen)[0], corners)
    image = decoder.image(seen.grid) + decoder.box(sinusoids(32 * corners, 32).flatten(1))
    later = nn.Transformer.generate_square_subsequent_mask(7)
    for layer in decoder.layers:
        same = library_layer(layer, hidden, settings.heads)
        asked = same.norm2(words + same.self_attn(*[same.norm1(words)] * 3, attn_mask=later)[0])
        looked = same.multihead_attn(asked, image, image, key_padding_mask=~seen.mask)[1]
        words = same(words, image, tgt_mask=later, memory_key_padding_mask=~seen.mask)
    forced = decoder.teacher_forced(seen, tokens)
    torch.testing.assert_close(forced.attention, looked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(forced.logits, decoder.output(decoder.norm(words)), atol=1e-5, rtol=1e-5)
    assert decoder.teacher_forced(seen, torch.full((3, 512), 4)).logits.isfinite().all()
    as_regions = Features(seen.grid, seen.mask, corners.expand(3, 6, 4), seen.pooled)
    torch.testing.assert_close(decoder.teacher_forced(as_regions, tokens).logits, forced.logits)
    turned = Features(seen.grid.flip(1), seen.mask.flip(1), GRID, seen.pooled)
    assert not torch.allclose(decoder.teacher_forced(turned, tokens).logits, forced.logits, atol=1e-2), (
        "it sees no places"
    )


@pytest.mark.parametrize("settings", [ATTENTION[0], ATTENTION[4], UPDOWN[0], TRANSFORMER[0]], ids=lambda s: s.name)
def test_learns_captions_by_heart(settings):
    """Eight photos, eight captions: the network says them back word by word."""
    settings = DecoderSettings(
        name=settings.name, cell=settings.cell, project=settings.project, hidden=32, embedding=32, dropout=0.0
    )
    decoder, tokens = build_decoder(settings, VOCABULARY, WIDTH), captions(8, 8)
    seen = Features(torch.randn(8, 6, WIDTH), torch.ones(8, 6, dtype=torch.bool), GRID, torch.zeros(8, WIDTH))
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01 if settings.name != "transformer" else 0.003)
    for _ in range(100):
        optimiser.zero_grad()
        (-decoder.log_prob(seen, tokens).sum() / (tokens != PAD).sum()).backward()
        optimiser.step()
    said = greedy(decoder.eval(), seen, Constraints(minimum_words=1, maximum_words=8)).tokens[:, 0]
    said = nn.functional.pad(said, (0, 9))[:, :8]
    assert (said == tokens)[tokens != PAD].float().mean() > 0.99
    assert not decoder.embedding.weight[PAD].any()


def test_show_attend_tell_has_as_many_parameters_as_reckoned():
    """2561 fewer than with LSTMCell and a bias in every layer: those stand beside others, or before the softmax."""
    settings = DecoderSettings(name="attention", cell="lstm", hidden=512, embedding=512, attention=512)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_decoder(settings, 1000, 2048).parameters())
    words = 1000 * 512 + 512 * 1000 + 1000
    attention = (2048 * 512 + 512) + 512 * 512 + 512
    lstm = 4 * 512 * (512 + 2048 + 512 + 1)
    begin, gate = 2 * (2048 * 512 + 512), 512 * 2048 + 2048
    assert count == words + attention + lstm + begin + gate == 11_781_609 - 2561


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

"""Decoders against the formulas of their papers, and against torch's own Transformer."""

import math

import pytest
import torch
from torch import nn

from src.models.captioner import build_decoder
from src.models.decoder import shift_right
from src.models.features import Features
from src.models.transformer import boxes, sinusoids
from src.settings.schema import DecoderSettings
from tests.helpers.causal_decoders import (
    ATTENTION,
    GRID,
    SMALL,
    TRANSFORMER,
    UPDOWN,
    VOCABULARY,
    built,
    captions,
    features,
)

pytestmark = pytest.mark.usefixtures("seeded")


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


def regions_of(decoder, photos: Features, photo: int) -> list[torch.Tensor]:
    cells = [cell for cell, held in zip(photos.grid[photo], photos.mask[photo], strict=True) if held]
    if decoder.project is not None:
        linear = decoder.project
        cells = [(linear.weight @ cell + linear.bias).clamp(min=0) for cell in cells]
    return cells


def plain_show_attend_tell(decoder, photos: Features, inputs: torch.Tensor) -> torch.Tensor:
    """Xu et al. 2015, equations 1 to 6 and 13, β of section 4.2.1, photo by photo and word by word: logits."""
    cell, logits = (
        library_cell(decoder.cell, decoder.word_input, decoder.context_input),
        torch.empty(*inputs.shape, VOCABULARY),
    )
    for photo in range(len(photos)):
        regions = regions_of(decoder, photos, photo)
        begin = torch.tanh(decoder.initial.weight @ (sum(regions) / len(regions)) + decoder.initial.bias)
        h, c = begin[: SMALL["hidden"]], begin[SMALL["hidden"] :]
        for place, token in enumerate(inputs[photo]):
            context = plain_attention(decoder.attention, h, regions)
            if decoder.gate is not None:
                context = context / (1 + torch.exp(-(decoder.gate.weight @ h + decoder.gate.bias)))
            cell_input = torch.cat([decoder.embedding.weight[token], context])
            h, c = cell(cell_input, (h, c)) if decoder.cell.lstm else (cell(cell_input, h), c)
            logits[photo, place] = decoder.output.weight @ h + decoder.output.bias
    return logits


def plain_up_down(decoder, photos: Features, inputs: torch.Tensor) -> torch.Tensor:
    """Anderson et al. 2018, equations 1 to 7, photo by photo and word by word: logits."""
    logits = torch.empty(*inputs.shape, VOCABULARY)
    first = library_cell(decoder.attention_lstm, decoder.language_input, decoder.mean_input, decoder.word_input)
    second = library_cell(decoder.language_lstm, decoder.context_input, decoder.attention_input)
    for photo in range(len(photos)):
        regions = regions_of(decoder, photos, photo)
        h1 = c1 = h2 = c2 = torch.zeros(SMALL["hidden"])
        for place, token in enumerate(inputs[photo]):
            cell_input = torch.cat([h2, sum(regions) / len(regions), decoder.embedding.weight[token]])
            h1, c1 = first(cell_input, (h1, c1))
            h2, c2 = second(torch.cat([plain_attention(decoder.attention, h1, regions), h1]), (h2, c2))
            logits[photo, place] = decoder.output.weight @ h2 + decoder.output.bias
    return logits


@pytest.mark.parametrize("settings", ATTENTION + UPDOWN, ids=lambda s: f"{s.name}-{s.cell}-{s.project}-{s.gate}")
@torch.no_grad()
def test_attention_decoders_compute_the_formulas_of_their_papers(settings):
    decoder, photos, inputs = built(settings), features(3), shift_right(captions(3))
    plain = plain_show_attend_tell if settings.name == "attention" else plain_up_down
    expected = plain(decoder, photos, inputs)
    torch.testing.assert_close(decoder.teacher_forced(photos, inputs).logits, expected, atol=1e-5, rtol=1e-5)


def library_layer(layer, hidden: int, heads: int) -> nn.TransformerDecoderLayer:
    same = nn.TransformerDecoderLayer(
        hidden, heads, layer.feedforward[0].out_features, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    for copy, original in (
        (same.self_attn.in_proj_weight, layer.self_qkv.weight),
        (same.self_attn.in_proj_bias, layer.self_qkv.bias),
        (same.multihead_attn.in_proj_weight, torch.cat([layer.cross_query.weight, layer.cross_key_value.weight])),
        (same.multihead_attn.in_proj_bias, torch.cat([layer.cross_query.bias, layer.cross_key_value.bias])),
    ):
        copy.data = original.data
    same.self_attn.out_proj, same.multihead_attn.out_proj = layer.self_output, layer.cross_output
    same.linear1, same.linear2 = layer.feedforward[0], layer.feedforward[2]
    same.norm1, same.norm2, same.norm3 = layer.norms
    return same


@pytest.mark.parametrize("settings", TRANSFORMER, ids=lambda s: f"{s.layers}")
@torch.no_grad()
def test_the_transformer_is_that_of_torch(settings):
    decoder, photos, tokens = built(settings), features(3), shift_right(captions(3))
    hidden = settings.hidden
    words = decoder.embedding(tokens) * hidden**0.5
    for place in range(7):
        for i in range(hidden):
            angle = place / 10000 ** (2 * (i // 2) / hidden)
            words[:, place, i] += math.cos(angle) if i % 2 else math.sin(angle)
    corners = torch.tensor([[x / 3, y / 2, (x + 1) / 3, (y + 1) / 2] for y in range(2) for x in range(3)])
    torch.testing.assert_close(boxes(photos)[0], corners)
    image = decoder.image_norm(decoder.image(photos.grid)) + decoder.box(sinusoids(32 * corners, 32).flatten(1))
    later = nn.Transformer.generate_square_subsequent_mask(7)
    for layer in decoder.layers:
        same = library_layer(layer, hidden, settings.heads)
        asked = same.norm2(words + same.self_attn(*[same.norm1(words)] * 3, attn_mask=later)[0])
        weights = same.multihead_attn(asked, image, image, key_padding_mask=~photos.mask)[1]
        words = same(words, image, tgt_mask=later, memory_key_padding_mask=~photos.mask)
    forced = decoder.teacher_forced(photos, tokens)
    torch.testing.assert_close(forced.attention, weights, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(forced.logits, decoder.output(decoder.norm(words)), atol=1e-5, rtol=1e-5)
    assert decoder.teacher_forced(photos, torch.full((3, 512), 4)).logits.isfinite().all()
    as_regions = Features(photos.grid, photos.mask, corners.expand(3, 6, 4), photos.pooled)
    torch.testing.assert_close(decoder.teacher_forced(as_regions, tokens).logits, forced.logits)
    turned = Features(photos.grid.flip(1), photos.mask.flip(1), GRID, photos.pooled)
    assert not torch.allclose(decoder.teacher_forced(turned, tokens).logits, forced.logits, atol=1e-2), (
        "it ignores positions"
    )


def test_show_attend_tell_has_the_number_of_parameters_of_its_formulas():
    """2561 fewer than with LSTMCell and a bias in every layer: those biases are redundant."""
    settings = DecoderSettings(name="attention", cell="lstm", hidden=512, embedding=512, attention=512, project=None)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_decoder(settings, 1000, 2048).parameters())
    words = 1000 * 512 + 512 * 1000 + 1000
    attention = (2048 * 512 + 512) + 512 * 512 + 512
    lstm = 4 * 512 * (512 + 2048 + 512 + 1)
    begin, gate = 2 * (2048 * 512 + 512), 512 * 2048 + 2048
    assert count == words + attention + lstm + begin + gate == 11_781_609 - 2561

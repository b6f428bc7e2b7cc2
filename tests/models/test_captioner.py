"""Features, quality head, the decoder protocol, the recurrent captioner, and the network that holds them."""

import pytest
import torch
from torch import nn

from src.models.captioner import build_captioner, build_decoder
from src.models.decoder import END, PAD, START, CausalDecoder, TeacherForced
from src.models.features import Features
from src.models.mos_head import MosHead
from src.settings.schema import DecoderSettings, EncoderSettings, Settings, ViewSettings
from tests.helpers.plain_decoding import teacher_forced_log_probs

pytestmark = pytest.mark.usefixtures("seeded")

VOCABULARY = 15
RECURRENT = [
    DecoderSettings(cell=cell, image=image, layers=layers, hidden=16, embedding=8)
    for cell in ("lstm", "gru")
    for image in ("first", "every")
    for layers in (1, 2)
]


def pixels(count: int = 2, size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8)


def features(count: int = 4, width: int = 6) -> Features:
    pooled = torch.randn(count, width)
    return Features(torch.randn(count, 2, width), torch.ones(count, 2, dtype=torch.bool), (1, 2), pooled)


def captions(count: int = 4, length: int = 7) -> torch.Tensor:
    tokens = torch.randint(4, VOCABULARY, (count, length))
    for row in range(count):
        end = length - 1 - row % 3
        tokens[row, end], tokens[row, end + 1 :] = END, PAD
    return tokens


def test_quality_head_starts_at_the_mean_and_stays_in_range():
    head = MosHead(6, 0.2, low=1.81, high=8.6, mean=5.575)
    torch.testing.assert_close(head(torch.randn(5, 6)), torch.full((5,), 5.575))
    nn.init.normal_(head.linear.weight, std=100)
    wild = head(torch.randn(200, 6))
    assert wild.min() >= 1.81 and wild.max() <= 8.6 and wild.max() - wild.min() > 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(5, 6).bfloat16()).dtype == torch.float32
    assert MosHead(6, 0.0, 4.0, 4.0, 4.0)(torch.randn(1, 6)).item() == 4.0


def test_features_repeat_and_select():
    boxes = torch.arange(24.0).view(3, 2, 4)
    seen = Features(torch.randn(3, 2, 6), torch.tensor([[True, False]] * 3), boxes, torch.randn(3, 6))
    twice = seen.repeat(2)
    assert len(twice) == 6
    assert torch.equal(twice.pooled[2], seen.pooled[1]) and torch.equal(twice.pooled[3], seen.pooled[1])
    assert torch.equal(twice.layout[4], boxes[2])
    chosen = seen.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.grid, seen.grid[[2, 0]]) and torch.equal(chosen.layout, boxes[[2, 0]])


@pytest.mark.parametrize("settings", RECURRENT, ids=lambda s: f"{s.cell}-{s.image}-{s.layers}")
def test_steps_give_the_numbers_of_teacher_forcing(settings):
    decoder, seen, tokens = build_decoder(settings, VOCABULARY, 6).eval(), features(), captions()
    with torch.no_grad():
        whole = teacher_forced_log_probs(decoder, seen, tokens)
        state, fed, order = decoder.start(seen), torch.full((4,), START), torch.tensor([2, 0, 3, 1])
        for place in range(tokens.shape[1]):
            log_probs, state = decoder.step(fed, state)
            torch.testing.assert_close(log_probs, whole[:, place], atol=1e-5, rtol=1e-5)
            assert state.attention is None
            state, whole, tokens = decoder.reorder(state, order), whole[order], tokens[order]
            fed = tokens[:, place]
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(4, 7))


@pytest.mark.parametrize("settings", RECURRENT, ids=lambda s: f"{s.cell}-{s.image}-{s.layers}")
def test_causality_padding_and_photo(settings):
    decoder, seen, tokens = build_decoder(settings, VOCABULARY, 6).eval(), features(), captions()
    with torch.no_grad():
        whole, chosen = teacher_forced_log_probs(decoder, seen, tokens), decoder.log_prob(seen, tokens)
        torch.testing.assert_close(chosen, whole.gather(2, tokens.unsqueeze(2)).squeeze(2) * (tokens != PAD))
        for place in range(tokens.shape[1] - 1):
            changed = tokens.clone()
            changed[:, place] = 4 + (tokens[:, place] - 3) % (VOCABULARY - 4)
            other = teacher_forced_log_probs(decoder, seen, changed)
            torch.testing.assert_close(other[:, : place + 1], whole[:, : place + 1], atol=1e-6, rtol=1e-6)
            assert not torch.allclose(other[:, place + 1], whole[:, place + 1])
        padded = torch.cat([tokens, torch.full((4, 5), PAD)], dim=1)
        longer = decoder.log_prob(seen, padded)
        torch.testing.assert_close(longer[:, :7], chosen, atol=1e-6, rtol=1e-6)
        assert not longer[:, 7:].any()
        assert not torch.allclose(decoder.log_prob(features(), tokens), chosen), "the photo has no say"


class Copier(CausalDecoder):
    """Puts all probability on the token that it is fed: what a network learns whose targets are not shifted."""

    def teacher_forced(self, features, inputs):
        return TeacherForced(20.0 * nn.functional.one_hot(inputs, VOCABULARY).float())

    def start(self, features):
        raise NotImplementedError

    step = reorder = start


def test_a_decoder_that_copies_its_input_scores_badly():
    tokens = captions(count=64)
    repeated = (tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != PAD)
    tokens[:, 1:][repeated] = 3
    log_probs = Copier().log_prob(features(64), tokens)
    loss = -log_probs.sum() / (tokens != PAD).sum()
    assert loss > 3 * torch.tensor(float(VOCABULARY)).log(), "worse than knowing nothing"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_learns_sentences_from_photos(cell):
    """Two kinds of photo, one sentence each: the loss goes to zero, also under dropout."""
    settings = DecoderSettings(cell=cell, hidden=32, embedding=16, dropout=0.1)
    decoder, seen = build_decoder(settings, VOCABULARY, 6), features(2)
    tokens = torch.tensor([[4, 5, 6, 7, END, PAD], [8, 5, 9, END, PAD, PAD]])
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        (-decoder.log_prob(seen, tokens).sum() / (tokens != PAD).sum()).backward()
        optimiser.step()
    assert (teacher_forced_log_probs(decoder.eval(), seen, tokens).argmax(-1) * (tokens != PAD) == tokens).all()
    assert not decoder.embedding.weight[PAD].any()


def settings_of(task: str) -> Settings:
    small = DecoderSettings(hidden=16, embedding=8)
    return Settings(task=task, view=ViewSettings(size=32), encoder=EncoderSettings(name="resnet10t"), decoder=small)


def test_features_computed_before_are_the_encoder_s():
    network = build_captioner(settings_of("both"), 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3).eval()
    with torch.no_grad():
        seen = network.features(pixels(size=32))
        torch.testing.assert_close(network.mos(seen), torch.full((2,), 4.0))
        kept = network.features({"grid": seen.grid.half(), "mask": seen.mask, "pooled": seen.pooled})
    assert kept.layout == seen.layout and kept.grid.dtype == torch.float32
    torch.testing.assert_close(kept.grid, seen.grid, atol=1e-2, rtol=1e-2)
    assert torch.equal(kept.pooled, seen.pooled)


def test_a_task_has_only_the_heads_it_needs():
    both, mos, caption = (
        build_captioner(settings_of(task), 1, VOCABULARY, (1.0, 9.0, 4.0), (0.4,), (0.2,))
        for task in ("both", "mos", "caption")
    )
    assert both.mos_head and both.decoder and mos.decoder is None and caption.mos_head is None


def test_equal_seeds_build_equal_networks():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(
            build_captioner(settings_of("both"), 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3).state_dict()
        )
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

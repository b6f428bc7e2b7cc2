"""Features, the MOS head, and the network that holds encoder and heads."""

import dataclasses

import pytest
import torch
from torch import nn

from src.models.captioner import build_captioner
from src.models.encoder import views_of
from src.models.features import Features
from src.models.mos_head import DistributionHead, MosHead
from src.settings.schema import DecoderSettings, EncoderSettings, MosHeadSettings, Settings, ViewSettings

pytestmark = pytest.mark.usefixtures("seeded")

VOCABULARY = 15


def pixels(count: int = 2, size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8)


def test_mos_head_starts_at_the_mean_and_stays_in_range():
    head = MosHead(6, MosHeadSettings(hidden=4), low=1.81, high=8.6, mean=5.575)
    torch.testing.assert_close(head(torch.randn(5, 6)), torch.full((5,), 5.575))
    nn.init.normal_(head.linear.weight, std=100)
    extreme = head(torch.randn(200, 6))
    assert extreme.min() >= 1.81 and extreme.max() <= 8.6 and extreme.max() - extreme.min() > 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(5, 6).bfloat16()).dtype == torch.float32
    assert MosHead(6, MosHeadSettings(), 4.0, 4.0, 4.0)(torch.randn(1, 6)).item() == 4.0


@pytest.mark.parametrize("mean", [1.81, 5.575, 8.6])
def test_distribution_head_starts_at_the_mean(mean):
    head = DistributionHead(6, MosHeadSettings(hidden=0), low=1.81, high=8.6, mean=mean)
    assert head.bins.tolist() == list(range(1, 10))
    torch.testing.assert_close(head(torch.randn(5, 6)), torch.full((5,), mean), atol=1e-4, rtol=1e-4)
    probabilities = head.probabilities(torch.randn(5, 6))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    expected = probabilities @ head.bins
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = head.expected_mos(probabilities)
    assert predicted.dtype == torch.float32 and torch.equal(predicted, expected)


def test_features_repeat_and_select():
    boxes = torch.arange(24.0).view(3, 2, 4)
    features = Features(torch.randn(3, 2, 6), torch.tensor([[True, False]] * 3), boxes, torch.randn(3, 6))
    twice = features.repeat(2)
    assert len(twice) == 6
    assert torch.equal(twice.pooled[2], features.pooled[1]) and torch.equal(twice.pooled[3], features.pooled[1])
    assert torch.equal(twice.layout[4], boxes[2])
    selected = features.select(torch.tensor([2, 0]))
    assert torch.equal(selected.grid, features.grid[[2, 0]]) and torch.equal(selected.layout, boxes[[2, 0]])


def settings_of(task: str) -> Settings:
    small = DecoderSettings(hidden=16, embedding=8)
    encoder = EncoderSettings(name="resnet10t", pretrained=False, frozen=False)
    return Settings(task=task, view=ViewSettings(size=32), encoder=encoder, decoder=small)


def test_cached_features_are_those_of_the_encoder():
    network = build_captioner(settings_of("both"), 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3).eval()
    with torch.no_grad():
        features = network.features(pixels(size=32))
        torch.testing.assert_close(network.mos(features), torch.full((2,), 4.0))
        cached = network.features({"grid": features.grid.half(), "mask": features.mask, "pooled": features.pooled})
    assert cached.layout == features.layout and cached.grid.dtype == torch.float32
    torch.testing.assert_close(cached.grid, features.grid, atol=1e-2, rtol=1e-2)
    assert torch.equal(cached.pooled, features.pooled)


def test_a_task_has_only_the_heads_it_needs():
    both, mos, caption = (
        build_captioner(settings_of(task), 1, VOCABULARY, (1.0, 9.0, 4.0), (0.4,), (0.2,))
        for task in ("both", "mos", "caption")
    )
    assert both.mos_head and both.decoder and mos.decoder is None and caption.mos_head is None


@pytest.mark.parametrize("name", ["recurrent", "attention", "updown", "transformer", "mask_predict"])
def test_what_captions_alone_train_gets_a_gradient(name):
    """Of an encoder whose pooling has parameters of its own, which the decoder may not read."""
    encoder = EncoderSettings(name="test_convnext", pretrained=False, frozen=False)
    decoder = DecoderSettings(name=name, hidden=16, embedding=16, heads=4)
    settings = dataclasses.replace(settings_of("caption"), encoder=encoder, decoder=decoder)
    network = build_captioner(settings, 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3)
    network.freeze_unread()
    pooling = network.encoder.pooling
    assert pooling and all(parameter.requires_grad == network.decoder.reads_pooled for parameter in pooling)
    network.decoder.log_prob(network.features(pixels(size=32)), torch.tensor([[4, 5, 2], [4, 6, 2]])).sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in network.parameters())


def test_equal_seeds_build_equal_networks():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(
            build_captioner(settings_of("both"), 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3).state_dict()
        )
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_captioner_sees_the_levels_beside_the_grid():
    """What a network that names objects has forgotten: the caption depends on it, the MOS is predicted from it."""
    encoder = EncoderSettings(name="resnet10t", pretrained=False, more_levels=[])
    settings = dataclasses.replace(settings_of("both"), encoder=encoder)
    network = build_captioner(settings, 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3).eval()
    nn.init.normal_(network.mos_head.linear.weight)
    cached = {name: tensor[:, 0] for name, tensor in views_of(network.encoder, pixels(size=32), False).items()}
    assert cached["levels"].shape == (2, network.encoder.levels_width)
    caption = torch.tensor([[4, 5, 2], [4, 5, 2]])
    with torch.no_grad():
        other = cached | {"levels": cached["levels"] + 1}
        features, changed = network.features(cached), network.features(other)
        assert (network.decoder.log_prob(features, caption) != network.decoder.log_prob(changed, caption)).any()
        assert (network.mos(features) != network.mos(changed)).all()
        assert torch.equal(network.features(cached).cells, features.cells), "evaluation has no dropout"
        linear = nn.Linear(network.encoder.width, 5)
        assert (features.cells != features.grid).any()
        torch.testing.assert_close(features.projected(linear), linear(features.cells), atol=1e-5, rtol=1e-5)

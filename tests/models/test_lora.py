"""Low-rank adapters on encoders of timm and on published captioners."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")

from src.base.errors import InputError
from src.models.captioner import build_captioner
from src.models.decoder import END, PAD
from src.models.encoders import build_encoder
from src.models.large_captioners import Blip, Git, VitGpt2
from src.models.lora import (
    add_adapters,
    learned_state,
    merge_adapters,
    published_names,
    share_published,
    with_published,
)
from src.settings.schema import DecoderSettings, EncoderSettings, Settings, ViewSettings
from src.training.optimizer import ExponentialMovingAverage
from tests.helpers.tiny_captioners import SIZE, tiny_captioner

pytestmark = pytest.mark.usefixtures("seeded")
ENCODERS = [
    ("test_vit", 32),
    ("test_convnext", 32),
    pytest.param("swin_tiny_patch4_window7_224", 64, marks=pytest.mark.slow),
    # it reads the weights of its queries, keys and values itself
    pytest.param("swinv2_tiny_window8_256", 64, marks=pytest.mark.slow),
]


def weights_of(name: str, folder: Path) -> str:
    file = folder / f"{name}.safetensors"
    model = timm.create_model(name)
    for parameter in model.parameters():  # none is zero, or nearly so
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    return str(file)


def shake(network: torch.nn.Module) -> None:
    """As after training: adapters that change what the network computes."""
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize(("name", "size"), ENCODERS)
def test_encoders_start_as_published_and_merge_into_the_same(tmp_path, name, size):
    settings = EncoderSettings(name=name, frozen=False, weights=weights_of(name, tmp_path), lora_rank=4)
    arguments = 3, size, (0.5,) * 3, (0.2,) * 3
    plain = build_encoder(replace(settings, lora_rank=0), *arguments).eval()
    adapted = build_encoder(settings, *arguments).eval()
    photos = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(adapted(photos).grid, plain(photos).grid, atol=1e-5, rtol=1e-5)
        shake(adapted)
        expected = adapted(photos).grid
        assert (expected - plain(photos).grid).abs().max() > 1e-3
    trained = {key for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {key for key in adapted.state_dict() if "lora_" in key}
    assert trained == set(learned_state(adapted)) - {"mean", "std"}
    adapted(photos).grid.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    assert ("qkv.lora" in "".join(trained)) == (name in ("test_vit", "swin_tiny_patch4_window7_224"))
    assert adapted.layers() and sum(map(len, adapted.layers())) == len(trained)
    other = build_encoder(settings, *arguments).eval()
    other.load_state_dict(with_published(learned_state(adapted), other))
    with torch.no_grad():
        torch.testing.assert_close(other(photos).grid, expected)
        merge_adapters(adapted)
        assert not [key for key in adapted.state_dict() if "lora_" in key]
        torch.testing.assert_close(adapted(photos).grid, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_encoders_that_cannot_be_adapted_say_so(name, monkeypatch):
    settings = EncoderSettings(name=name, frozen=False, lora_rank=4, long_side=None)
    monkeypatch.setattr("src.models.backbone.published_weights", lambda name: timm.create_model(name).state_dict())
    with pytest.raises(InputError, match="encoder.lora_rank=4"):
        build_encoder(settings, 3, 64, (0.5,) * 3, (0.2,) * 3)


def network_of(name: str, folder: Path, rank: int, **encoder):
    decoder = DecoderSettings(name=name.removesuffix("_t5"), weights=str(folder), lora_rank=rank)
    encoder = EncoderSettings(name="captioner", **encoder)
    settings = Settings(view=ViewSettings(size=SIZE), encoder=encoder, decoder=decoder)
    return build_captioner(settings, 3, 0, (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3).eval()


@pytest.mark.parametrize("name", ["blip", "blip2", "blip2_t5", "git", "vit_gpt2"])
def test_captioners_start_as_published_train_adapters_alone_and_merge(tmp_path, name):
    folder = tiny_captioner(name, tmp_path / name)
    plain = network_of(name, folder, 0)
    network = network_of(name, folder, 4, frozen=False, lora_rank=4)
    photos = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    tokens = torch.randint(4, 48, (3, 7))
    tokens[0, 5], tokens[0, 6], tokens[1:, 6] = END, PAD, END

    def log_prob(network):
        return network.decoder.log_prob(network.features(photos), tokens)

    torch.testing.assert_close(log_prob(network), log_prob(plain), atol=1e-5, rtol=1e-5)
    ema = ExponentialMovingAverage(network, 0.5)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for step in range(3):
        optimizer.zero_grad()
        (network.mos(network.features(photos)).sum() - log_prob(network).sum()).backward()
        optimizer.step()
        ema.update(network, step)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    heads = {key for key in changed if key.startswith("mos_head.")}
    assert heads and all("lora_" in key for key in changed - heads)
    assert {key for key in before if "lora_" in key} <= changed
    own, averaged = dict(network.named_parameters()), dict(ema.module.named_parameters())
    shared = {key for key in own if own[key] is averaged[key]}
    assert shared == published_names(network) & own.keys() and not torch.equal(*(
        each[next(key for key in own if "lora_B" in key)] for each in (own, averaged)))  # fmt: skip
    expected = log_prob(network)
    again = network_of(name, folder, 4, frozen=False, lora_rank=4)
    again.load_state_dict(with_published(learned_state(network), again))
    torch.testing.assert_close(log_prob(again), expected)
    merge_adapters(network)
    torch.testing.assert_close(log_prob(network), expected, atol=1e-5, rtol=1e-5)
    assert set(network.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2"])
def test_a_checkpoint_is_under_five_percent_of_a_model_of_the_published_size(name):
    import transformers

    with torch.device("meta"):
        if name == "blip":
            model = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
            tower, decoder = model.vision_model, Blip(model.text_decoder, (0, 1, 2, 3))
        elif name == "git":
            model = transformers.GitForCausalLM(transformers.GitConfig())
            tower, decoder = model.git.image_encoder, Git(model, (0, 1, 2, 3))
        else:
            text = transformers.GPT2Config(add_cross_attention=True)
            joined = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
                transformers.ViTConfig(), text
            )
            model = transformers.VisionEncoderDecoderModel(joined)
            tower, decoder = model.encoder, VitGpt2(model.decoder, None, (0, 1, 2, 3))
        whole = sum(p.numel() for p in model.parameters())
        for part in (tower, decoder):
            add_adapters(part, 16, "decoder.lora_rank")
    held = sum(value.numel() for part in (tower, decoder) for value in learned_state(part).values())
    assert whole > 100e6 and 0.001 < held / whole < 0.05


def saved_bytes(loss) -> int:
    """Of activations that the backward pass of what `loss` computes needs."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss().backward()
    return sum(sizes)


@pytest.mark.parametrize("training", [True, False], ids=["training", "self-critical"])
@pytest.mark.parametrize("name", ["blip", "blip2", "blip2_t5", "git", "vit_gpt2", "test_vit"])
def test_checkpointed_gradients_are_the_same_in_less_memory(tmp_path, name, training):
    if name == "test_vit":
        encoder = EncoderSettings(name=name, frozen=False, weights=weights_of(name, tmp_path), lora_rank=4)
        settings = Settings(view=ViewSettings(size=64), task="mos", encoder=encoder)
        network = build_captioner(settings, 3, 0, (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3)
    else:
        network = network_of(name, tiny_captioner(name, tmp_path / name), 4, frozen=False)
    shake(network)
    size = SIZE if network.decoder else 64
    photos, tokens = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8), torch.randint(4, 48, (3, 7))
    tokens[:, 6] = END

    def loss():
        torch.manual_seed(0)  # dropout
        features = network.features(photos)
        said = network.decoder.log_prob(features, tokens).sum() if network.decoder else 0
        return features.pooled.square().sum() - said

    def gradients():
        network.train(training).zero_grad()
        size = saved_bytes(loss)
        return size, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    size, expected = gradients()
    network.checkpoint_gradients()
    less, computed = gradients()
    assert less < 0.7 * size and len(computed) == len(expected) > 10
    for ours, theirs in zip(computed, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_networks_that_cannot_checkpoint_say_so():
    encoder = EncoderSettings(name="test_resnet", pretrained=False, cache="none")
    network = build_captioner(Settings(encoder=encoder), 3, 20, (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(InputError, match="train.gradient_checkpointing=true needs an encoder that is trained"):
        network.checkpoint_gradients()


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("src.models.lora.find_spec", lambda _: None)
    with pytest.raises(InputError, match="encoder.lora_rank=4 needs peft: .venv/bin/python -m pip install -r"):
        add_adapters(torch.nn.Linear(2, 2), 4, "encoder.lora_rank")


def test_a_copy_shares_nothing_where_all_is_learned():
    linear = torch.nn.Sequential(torch.nn.Linear(2, 2))
    copied = torch.nn.Sequential(torch.nn.Linear(2, 2))
    share_published(copied, linear)
    assert copied[0].weight is not linear[0].weight and learned_state(linear).keys() == linear.state_dict().keys()

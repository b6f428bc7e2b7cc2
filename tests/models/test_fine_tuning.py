"""A backbone in two parts: frozen early stages and trained late ones, run one after the other, are the whole."""

import dataclasses

import pytest
import timm
import torch
from torch import nn

from src.base.errors import InputError
from src.models.captioner import build_captioner
from src.models.encoders import build_encoder, build_late_stages
from src.models.fine_tuning import split_backbone
from src.settings.schema import EncoderSettings, LossSettings, OptimSettings
from src.training.optimizer import parameter_groups
from src.training.task import Scale, Task
from tests.models.test_captioner import VOCABULARY, settings_of

SPLIT = EncoderSettings(
    name="test_resnet", pretrained=False, more_levels=[], fine_tuned="tf_efficientnet_lite0", fine_tuned_size=64
)


@pytest.mark.parametrize(
    "name, stages", [("tf_efficientnet_lite0", 5), ("resnet10t", 2), ("convnext_atto", 3), ("mobilenetv3_small_050", 1)]
)
def test_the_parts_compute_what_the_whole_does(name, stages):
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).eval()
    early, late = split_backbone(backbone, stages, 64)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        stage = early.forward_features(images)
        whole = backbone.forward_features(images)
        assert torch.allclose(late.forward_features(stage), whole, atol=1e-5)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in (early, late, backbone)]
    assert 0 < sizes[0] < sizes[2] and 0 < sizes[1] < sizes[2] and sizes[0] + sizes[1] == sizes[2]


@pytest.mark.parametrize("name, stages, why", [("vit_tiny_patch16_224", 4, "no plain"), ("resnet10t", 4, "4 stages")])
def test_what_cannot_be_split_is_said_in_one_line(name, stages, why):
    settings = dataclasses.replace(SPLIT, fine_tuned=name, frozen_stages=stages, fine_tuned_size=224)
    with pytest.raises(InputError, match=f"encoder.fine_tuned={name}.*{why}"):
        build_late_stages(settings, 3)


@pytest.mark.parametrize("name, unused", [("test_convnext", True), ("resnet10t", False)])
def test_all_that_is_to_learn_gets_a_gradient(name, unused):
    """DistributedDataParallel waits for each: a norm that only the classifier reads is not among them."""
    late = build_late_stages(dataclasses.replace(SPLIT, fine_tuned=name, frozen_stages=1), 3)
    learned = [parameter for parameter in late.parameters() if parameter.requires_grad]
    stage = build_encoder(dataclasses.replace(SPLIT, fine_tuned=name, frozen_stages=1), 3, 64, (0.4,) * 3, (0.2,) * 3)(
        torch.zeros(1, 64, 64, 3)
    ).stage
    late(stage).sum().backward()
    assert all(parameter.grad is not None for parameter in learned)
    assert (len(learned) < len(list(late.parameters()))) == unused


def test_only_the_late_stages_learn_and_photos_without_mos_cost_nothing(one_thread):
    settings = dataclasses.replace(settings_of("both"), encoder=SPLIT)
    torch.manual_seed(0)
    network = build_captioner(settings, 3, VOCABULARY, (1.0, 9.0, 4.0), (0.4,) * 3, (0.2,) * 3)
    nn.init.normal_(network.mos_head.linear.weight)
    task = Task(network, LossSettings(), Scale(1.0, 9.0, 4.0, 1.0), 8).train()
    groups = parameter_groups(task, OptimSettings(encoder_lr_mult=0.25))
    late = {parameter for group in groups if group["lr_scale"] == 0.25 for parameter in group["params"]}
    assert late == set(network.late_stages.parameters())

    pixels = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8)
    mos, captions = torch.tensor([3.0, torch.nan, 5.0]), torch.zeros(3, 1, 4, dtype=torch.long)
    seen = []
    network.late_stages.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    output = task(pixels, mos=mos, captions=captions)
    output["losses"].sum().backward()
    assert seen == [2] and output["losses"][1, 0] == 0
    trained = {name.split(".")[1] for name, parameter in task.named_parameters() if parameter.grad is not None}
    assert "late_stages" in trained and "encoder" not in trained
    norms = [module for module in network.late_stages.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    with torch.no_grad():
        alone = task.eval()(pixels[2:], mos=mos[2:], captions=captions[2:])["mos"]
        assert torch.allclose(task(pixels, mos=mos, captions=captions)["mos"][2:], alone, atol=1e-5)
        assert torch.allclose(task(pixels, mode="score")[2:], alone, atol=1e-5), "as without the labels"

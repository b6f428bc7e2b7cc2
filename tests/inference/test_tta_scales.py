"""The score at several sizes of a photo."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.base.errors import InputError
from src.inference.mos_prediction import MosPredictor
from src.models.captioner import build_captioner
from src.settings.load import load
from tests.conftest import TINY


def network_of(*arguments):
    settings, _ = load([*TINY, "task=mos", *arguments], "predict")
    return settings, build_captioner(settings, 3, 0, (1.0, 9.0, 5.0), (0.5,) * 3, (0.25,) * 3).eval()


def by_pillow(photo: np.ndarray, side: int) -> np.ndarray:
    """A photo [H, W, 3] resized channel by channel in floating point."""
    planes = [Image.fromarray(photo[:, :, c].astype(np.float32)).resize((side, side), Image.BILINEAR) for c in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def test_the_score_is_the_mean_over_sizes_and_mirror_images(seeded):
    settings, network = network_of("view.size=48", "predict.tta_scales=[0.5,1,1.25]")
    torch.nn.init.normal_(network.mos_head.linear.weight)
    photos = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    with torch.inference_mode():
        found = MosPredictor(network, True, settings.predict.tta_scales)(torch.from_numpy(photos))
        views = [np.stack([by_pillow(photo, side) for photo in photos]) for side in (24, 48, 60)]
        views += [view[:, :, ::-1].copy() for view in views]
        each = torch.stack([network.mos(network.features(torch.from_numpy(view))) for view in views])
        alone = MosPredictor(network, False, [1.0])(torch.from_numpy(photos))
    assert each.std(0).min() > 1e-3, "sizes matter"
    assert torch.allclose(found, each.mean(0), atol=1e-4)
    assert torch.allclose(alone, each[1], atol=1e-6)


@pytest.mark.parametrize(
    "given, words",
    [
        (["predict.tta_scales=[]"], "different numbers from 0.5 to 2"),
        (["predict.tta_scales=[1,1]"], "different numbers from 0.5 to 2"),
        (["predict.tta_scales=[0.4]"], "different numbers from 0.5 to 2"),
        (["predict.tta_scales=2"], "a list, each a number"),
        (["predict.tta_scales=[0.5]", "encoder.name=fasterrcnn_resnet50_fpn", "encoder.long_side=null"],
         "detects at one size"),
        (["predict.tta_scales=[0.5]", "encoder.frozen=true", "encoder.cache=fp16"],
         "keeps features of one size"),
    ],
)  # fmt: skip
def test_impossible_scales_are_refused(given, words, capsys):
    with pytest.raises(SystemExit):
        load(given, "predict")
    assert words in capsys.readouterr().err


def test_an_encoder_of_one_size_refuses_another():
    _, network = network_of("encoder.name=test_vit")
    with pytest.raises(InputError, match="sees photos of one size only"):
        MosPredictor(network, True, [0.5, 1.0])

"""MOS of photos by a fold's network, with test-time augmentation."""

from pathlib import Path

import torch

from src.base.errors import InputError
from src.data.labels import Labels
from src.inference.networks import open_network
from src.models.captioner import Captioner
from src.pipeline.runs import best_checkpoint
from src.settings.schema import Settings
from src.training.distributed import Ranks, replicate
from src.training.infer import infer


class MosPredictor(torch.nn.Module):
    """Predicted MOS of a batch: the mean over all scales and, with `flips`, mirror images.

    Raises InputError for scales other than 1 where the encoder takes photos of one size only.
    """

    def __init__(self, network: Captioner, flips: bool, scales: list[float]):
        super().__init__()
        if scales != [1.0] and network.encoder.fixed_input_size:
            raise InputError(f"predict.tta_scales={scales}: this encoder sees photos of one size only; leave it out")
        self.network, self.flips, self.scales = network, flips, scales

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """MOS float32 [B] of pixels [B, H, W, C] or of cached features."""
        if isinstance(images, dict):  # cached features are of the photos as they are
            return self._mos(images)
        views = [self._with_flip(images if scale == 1 else resized(images, scale)) for scale in self.scales]
        return views[0] if len(views) == 1 else torch.stack(views).mean(0)

    def _with_flip(self, images: torch.Tensor) -> torch.Tensor:
        mos = self._mos(images)
        return (mos + self._mos(images.flip(2))) / 2 if self.flips else mos

    def _mos(self, images: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network.mos(self.network.features(images)).float()


def resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Photos [B, H, W, C] at another size, float on the scale 0 to 255, smoothed where they shrink."""
    size = [round(side * scale) for side in images.shape[1:3]]
    planes = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1)


def predict_mos(
    folder: Path, settings: Settings, labels: Labels, rows: list[int], ranks: Ranks, label: str
) -> dict[int, float]:
    """MOS of the photos at `rows`, by row, from the best-mos.pt in `folder`: the mean over the photo's native crops.

    Computed by all processes and complete on each.
    """
    network, _ = open_network(best_checkpoint(folder, "mos"), settings, labels.features)
    predictor = MosPredictor(network, settings.predict.tta_flips, settings.predict.tta_scales).to(ranks.device)
    replicated = replicate(predictor, settings, ranks)
    # a photo has other native crops, or cached features of its mirror image
    views = settings.view.crops
    if settings.encoder.cached:
        views = settings.encoder.cached_views if settings.predict.tta_flips else 1
    crops = [
        infer(lambda batch: replicated(batch["images"]).tolist(), labels, rows, settings, ranks, label, crop=crop)
        for crop in range(views)
    ]
    return {row: sum(crop[row] for crop in crops) / len(crops) for row in rows}

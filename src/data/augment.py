"""Random augmentation of training photos, a function of (seed, epoch, photo)."""

import os
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from src.base.randomness import fold_in
from src.settings.schema import AugmentSettings

cv2.setNumThreads(0)


class Augmenter:
    """Flips and shifts, which do not change the quality, and photometric changes where they are switched on."""

    def __init__(self, settings: AugmentSettings, size: int):
        self.settings, self.size = settings, size

    @cached_property
    def _steps(self) -> Any:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would otherwise ask the network at import
        import albumentations as A  # takes a second, and training on cached features never asks for it

        flip, photometric, size = self.settings.flip, self.settings.photometric, self.size
        border = round(self.settings.crop * size)
        steps = [A.HorizontalFlip(p=flip)] if flip else []
        if border:
            side = size + 2 * border
            steps += [A.PadIfNeeded(side, side, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(size, size)]
        if photometric:
            steps.append(A.RandomBrightnessContrast(0.2, 0.2, p=photometric))
            steps.append(A.GaussianBlur(sigma_limit=(0.3, 1.5), p=photometric))
        return A.Compose(steps) if steps else None

    def flips(self, seed: int, epoch: int, row: int) -> bool:
        """Whether training sees the cached features of the mirrored photo; a function of (seed, epoch, photo)."""
        return fold_in(seed, "flip", epoch, row) / 2**63 < self.settings.flip

    def __call__(self, photo: np.ndarray, seed: int, epoch: int, row: int) -> np.ndarray:
        """uint8 [H, W, C] → uint8 [H, W, C]; the same for equal (seed, epoch, row), whatever was augmented before."""
        if self._steps is None:
            return photo
        self._steps.set_random_seed(fold_in(seed, "augment", epoch, row))
        return self._steps(image=photo)["image"].reshape(photo.shape)

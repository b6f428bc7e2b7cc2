"""The output of an encoder, input of the MOS head and the decoders."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Features:
    """Image features of B photos, each as N grid cells or N detected regions.

    `grid` [B, N, D]: one vector per cell, in row-major order where `layout` is (height, width).
    `mask` [B, N] bool: False at padding, which attention must ignore.
    `layout`: (height, width) of the grid, or the boxes [B, N, 4] of regions.
    `pooled` [B, D]: one vector per photo.

    Features never leave the replica that computed them, so DataParallel need not gather them.
    """

    grid: torch.Tensor
    mask: torch.Tensor
    layout: tuple[int, int] | torch.Tensor
    pooled: torch.Tensor

    def __len__(self) -> int:
        return self.pooled.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pooled.device

    def repeat(self, times: int) -> "Features":
        """Each photo `times` times in a row: photo b is at rows b * times … b * times + times - 1."""
        return self._map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def select(self, index: torch.Tensor) -> "Features":
        """The photos at `index` (int64 [M], with omissions and repetitions)."""
        return self._map(lambda tensor: tensor.index_select(0, index))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Features":
        layout = function(self.layout) if isinstance(self.layout, torch.Tensor) else self.layout
        return replace(
            self, grid=function(self.grid), mask=function(self.mask), layout=layout, pooled=function(self.pooled)
        )

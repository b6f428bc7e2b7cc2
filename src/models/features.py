"""What an encoder tells the heads about a batch of photos."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Features:
    """Image features of B photos, each seen as N cells of a grid or N regions.

    `grid` [B, N, D]: one vector per cell. Row by row where `layout` is (height, width).
    `mask` [B, N] bool: True where a cell holds something; decoders that attend must leave out the others.
    `layout`: (height, width) of the grid, or the boxes [B, N, 4] of regions.
    `pooled` [B, D]: one vector per photo.

    Features stay inside the replica that made them, so they need not be gathered by DataParallel.
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
        """Each photo `times` times in a row: photo b comes to rows b * times … b * times + times - 1."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def select(self, index: torch.Tensor) -> "Features":
        """The photos at `index` (int64 [M]), in that order; a photo may come several times."""
        return self._each(lambda tensor: tensor.index_select(0, index))

    def _each(self, function) -> "Features":
        layout = function(self.layout) if isinstance(self.layout, torch.Tensor) else self.layout
        return replace(
            self, grid=function(self.grid), mask=function(self.mask), layout=layout, pooled=function(self.pooled)
        )

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
    `levels` [B, L]: mean and standard deviation of every block's output, or None (see models.levels).
    `maxima` [B, M]: of the channels inside every block that is wider there, for regressors alone, or None (the same).
    `stage` [B, h, w, C]: the output of another backbone's early stages, or None (see models.fine_tuning).
    `shift` [B, D]: what a decoder sees added to each cell of the grid, or None (see models.levels).

    Features never leave the replica that computed them, so DataParallel need not gather them.
    """

    grid: torch.Tensor
    mask: torch.Tensor
    layout: tuple[int, int] | torch.Tensor
    pooled: torch.Tensor
    levels: torch.Tensor | None = None
    stage: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    maxima: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.pooled.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pooled.device

    @property
    def for_mos(self) -> torch.Tensor:
        """What the MOS is predicted from: `levels` where there are such, else `pooled`."""
        return self.pooled if self.levels is None else self.levels

    @property
    def cells(self) -> torch.Tensor:
        """The grid [B, N, D] with its shift."""
        return self.grid if self.shift is None else self.grid + self.shift.unsqueeze(1)

    def projected(self, layer: torch.nn.Linear) -> torch.Tensor:
        """The layer on `cells`, [B, N, ·].

        The shift goes through it once a photo instead of once a cell: the gradient of a cached grid, which nobody
        needs, is not computed for its sake.
        """
        projected = layer(self.grid)
        if self.shift is None:
            return projected
        return projected + torch.nn.functional.linear(self.shift, layer.weight).unsqueeze(1)

    def repeat(self, times: int) -> "Features":
        """Each photo `times` times in a row, for its captions: photo b is at rows b * times … b * times + times - 1.

        Without `stage`, of which captions know nothing.
        """
        return replace(self, stage=None)._map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def select(self, index: torch.Tensor) -> "Features":
        """The photos at `index` (int64 [M], with omissions and repetitions)."""
        return self._map(lambda tensor: tensor.index_select(0, index))

    def averaged_to(self, layout: tuple[int, int]) -> "Features":
        """The same with its grid averaged to another layout: photos of any size and aspect ratio become alike."""
        if layout == self.layout or isinstance(self.layout, torch.Tensor):
            return self
        planes = self.grid.unflatten(1, self.layout).permute(0, 3, 1, 2)
        grid = torch.nn.functional.adaptive_avg_pool2d(planes, layout).flatten(2).transpose(1, 2)
        mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
        return replace(self, grid=grid, mask=mask, layout=layout)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Features":
        layout = function(self.layout) if isinstance(self.layout, torch.Tensor) else self.layout
        levels, stage, shift, maxima = (
            None if value is None else function(value) for value in (self.levels, self.stage, self.shift, self.maxima)
        )
        grid, mask, pooled = function(self.grid), function(self.mask), function(self.pooled)
        return Features(grid, mask, layout, pooled, levels, stage, shift, maxima)

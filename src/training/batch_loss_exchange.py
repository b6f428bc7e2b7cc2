"""Losses over the whole batch of a step, whatever micro-batches and processes it is divided into.

The loss is computed on the predictions of all, without gradient through the network; each prediction's slope then
goes into the backward pass of the part that made it (GradCache, Gao et al. 2021). A step of one micro-batch needs no
more than an exchange of numbers between processes. With several, the predictions come from a first pass without
gradient, with equal seeds of dropout; `torch.compile` may draw otherwise in it.
"""

from dataclasses import dataclass

import torch

from src.settings.schema import Settings
from src.training.batch_losses import batch_loss
from src.training.distributed import Ranks


@dataclass(frozen=True)
class LossGradients:
    """The loss of the whole batch, and its derivative by each prediction of a part [B]."""

    loss: torch.Tensor
    slope: torch.Tensor

    def carried(self, predicted: torch.Tensor, known: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """A number with the gradient of `count` times the loss, and this part's share of that as its value.

        predicted: [B] with gradient; known: bool [B], which have a label; count: how many the whole batch has.
        """
        return self.loss * known.sum() + count * (self.slope * (predicted - predicted.detach())).sum()


class BatchLossExchange:
    """Computes the batch losses that the settings weigh, over all processes. spread: of the training labels."""

    def __init__(self, settings: Settings, spread: float, ranks: Ranks):
        self.loss, self.spread, self.ranks = settings.loss, spread, ranks
        # a process has at most that many photos of a step, stand-ins for missing ones included
        self.room = -(-settings.train.batch_size // ranks.count) + settings.train.accumulation_steps

    def __call__(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> list[LossGradients]:
        """For each part of this process, from its predictions and labels (NaN: unknown), [B] both."""
        predicted, mos = (torch.cat(tensors).detach().float() for tensors in zip(*parts, strict=True))
        own = predicted.new_full((2, self.room), torch.nan)
        own[0, : len(mos)], own[1, : len(mos)] = predicted, mos
        everywhere = self.ranks.all_gather_tensor(own)
        with torch.enable_grad():
            leaf = everywhere[:, 0].nan_to_num().requires_grad_()
            loss = batch_loss(leaf.flatten(), everywhere[:, 1].flatten(), self.spread, self.loss)
            (slope,) = torch.autograd.grad(loss, leaf)
        slopes = slope[self.ranks.rank, : len(mos)].split([len(part) for part, _ in parts])
        return [LossGradients(loss.detach(), slope) for slope in slopes]

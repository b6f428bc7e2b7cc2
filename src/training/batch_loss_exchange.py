"""Losses over the whole batch of a step, however it is divided into micro-batches and processes.

Gradient caching (GradCache, Gao et al. 2021): the loss is computed on all predictions without a graph through the
network; its gradient by each prediction then enters the backward pass of the micro-batch which that prediction belongs
to. A step of one micro-batch needs no more than an exchange of predictions between processes. With several, the
predictions come from a first pass without gradient, with equal seeds of dropout; under `torch.compile` dropout may
differ between the two passes.
"""

from dataclasses import dataclass

import torch

from src.settings.schema import Settings
from src.training.batch_losses import batch_loss
from src.training.distributed import Ranks


@dataclass(frozen=True)
class LossGradients:
    """The loss of the whole batch, and its gradient by each prediction of a micro-batch [B]."""

    loss: torch.Tensor
    gradient: torch.Tensor

    def surrogate(self, predicted: torch.Tensor, labelled: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """A scalar: its gradient is `count` times the loss's, its value this micro-batch's share of count * loss.

        predicted: [B] with gradient; labelled: bool [B]; count: labels of the whole batch, by which the engine divides.
        """
        return self.loss * labelled.sum() + count * (self.gradient * (predicted - predicted.detach())).sum()


class BatchLossExchange:
    """Computes the batch losses that the settings weight, over all processes. std: of the training labels."""

    def __init__(self, settings: Settings, std: float, ranks: Ranks):
        self.loss, self.std, self.ranks = settings.loss, std, ranks
        # the most photos of a step that a process has, those that fill empty micro-batches included: tensors that are
        # gathered must have one shape
        photos = -(-settings.train.batch_size // ranks.world_size)
        self.capacity = photos + max(
            photos * (settings.train.accumulation_steps == "auto"), settings.train.micro_batches
        )

    def __call__(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> list[LossGradients]:
        """From the predictions and labels (NaN: unknown), [B] both, of each micro-batch of this process."""
        predicted, mos = (torch.cat(tensors).detach().float() for tensors in zip(*parts, strict=True))
        local = predicted.new_full((2, self.capacity), torch.nan)
        local[0, : len(mos)], local[1, : len(mos)] = predicted, mos
        gathered = self.ranks.all_gather_tensor(local)
        with torch.enable_grad():
            leaf = gathered[:, 0].nan_to_num().requires_grad_()
            loss = batch_loss(leaf.flatten(), gathered[:, 1].flatten(), self.std, self.loss)
            (gradient,) = torch.autograd.grad(loss, leaf)
        gradients = gradient[self.ranks.rank, : len(mos)].split([len(part) for part, _ in parts])
        return [LossGradients(loss.detach(), gradient) for gradient in gradients]

"""MOS losses that compare the photos of a batch with each other, and their gradients over the whole batch of a step.

predicted, mos: float32 [N]; labelled: bool [N], the photos that take part, whatever the others' finite values are;
std: the training labels' standard deviation. To count the labelled photos, or to leave the others out, would wait for
a GPU: they are masked. Each loss is a scalar.

A step's batch may be divided into micro-batches and processes. Gradient caching (GradCache, Gao et al. 2021): the loss
is computed on all predictions without a graph through the network; its gradient by each prediction then enters the
backward pass of the micro-batch which that prediction belongs to. A step of one micro-batch needs no more than an
exchange of predictions between processes. With several, the predictions come from a first pass without gradient, with
equal seeds of dropout; under `torch.compile` dropout may differ between the two passes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from src.settings.schema import LossSettings, Settings
from src.training.distributed import Ranks

SOFTNESS = 0.1
"""Width of a soft rank's step, in standard deviations of the labels."""
_EPSILON = 1e-4  # added to variances, in units of the labels': predictions are all equal before the first step


def _centred(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    mean = (values * labelled).sum() / labelled.sum().clamp(min=1)
    return (values - mean) * labelled


def plcc_loss(
    predicted: torch.Tensor, mos: torch.Tensor, labelled: torch.Tensor, std: float | torch.Tensor
) -> torch.Tensor:
    """1 - Pearson's correlation."""
    x, y = (_centred(values, labelled) / std for values in (predicted, mos))
    xy, xx, yy = ((a * b).sum() / labelled.sum().clamp(min=1) for a, b in ((x, y), (x, x), (y, y)))
    return 1 - xy * ((xx + _EPSILON) * (yy + _EPSILON)).rsqrt()


def rank_loss(predicted: torch.Tensor, mos: torch.Tensor, labelled: torch.Tensor, std: float) -> torch.Tensor:
    """Logistic loss of each pair's order, averaged over pairs with different labels (RankNet, Burges et al. 2005)."""
    sign = (mos.unsqueeze(1) - mos).sign().triu() * (labelled.unsqueeze(1) & labelled)
    difference = (predicted.unsqueeze(1) - predicted) / std
    return (F.softplus(-difference * sign) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)


def soft_ranks(values: torch.Tensor, labelled: torch.Tensor, softness: float) -> torch.Tensor:
    """Ranks [N] among the labelled, from 1, ties at their mean: how many values are smaller, each counted by a sigmoid
    of the difference over `softness` (Qin, Liu and Li 2010). The limit 0 gives the ranks themselves."""
    difference = values.unsqueeze(1) - values
    smaller = torch.sigmoid(difference / softness) if softness else (difference.sign() + 1) / 2
    return (smaller * labelled).sum(1) + 0.5


def srcc_loss(predicted: torch.Tensor, mos: torch.Tensor, labelled: torch.Tensor, std: float) -> torch.Tensor:
    """1 - Spearman's correlation, with soft ranks of the predictions."""
    ranks = soft_ranks(predicted, labelled, SOFTNESS * std), soft_ranks(mos, labelled, 0)
    deviation = labelled.sum().clamp(min=2) / 12**0.5  # of ranks without ties
    return plcc_loss(*ranks, labelled, deviation)


def batch_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float, loss: LossSettings) -> torch.Tensor:
    """The weighted sum of the losses; 0 below two labels. Photos whose mos is NaN are left out."""
    labelled = ~mos.isnan()
    values = predicted.float().masked_fill(~labelled, 0.0), mos.nan_to_num()
    total = values[0].sum() * 0  # with a gradient, of zeros
    for weight, function in ((loss.plcc, plcc_loss), (loss.rank, rank_loss), (loss.srcc, srcc_loss)):
        if weight:
            total = total + weight * function(*values, labelled, std)
    return torch.where(labelled.sum() < 2, 0.0, total)


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

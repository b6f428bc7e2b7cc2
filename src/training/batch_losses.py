"""MOS losses that compare the photos of a batch with each other; each is a scalar.

predicted, mos: float32 [N], all with a label; std: the training labels' standard deviation.
"""

import torch
import torch.nn.functional as F

from src.settings.schema import LossSettings

SOFTNESS = 0.1
"""Width of a soft rank's step, in standard deviations of the labels."""
_EPSILON = 1e-4  # added to variances, in units of the labels': predictions are all equal before the first step


def plcc_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float) -> torch.Tensor:
    """1 - Pearson's correlation."""
    x, y = ((values - values.mean()) / std for values in (predicted, mos))
    return 1 - (x * y).mean() * ((x.square().mean() + _EPSILON) * (y.square().mean() + _EPSILON)).rsqrt()


def rank_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float) -> torch.Tensor:
    """Logistic loss of each pair's order, averaged over pairs with different labels (RankNet, Burges et al. 2005)."""
    sign = (mos.unsqueeze(1) - mos).sign().triu()
    difference = (predicted.unsqueeze(1) - predicted) / std
    return (F.softplus(-difference * sign) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)


def soft_ranks(values: torch.Tensor, softness: float) -> torch.Tensor:
    """Ranks [N], from 1, ties at their mean: how many values are smaller, each counted by a sigmoid of the difference
    over `softness` (Qin, Liu and Li 2010). The limit 0 gives the ranks themselves."""
    difference = values.unsqueeze(1) - values
    smaller = torch.sigmoid(difference / softness) if softness else (difference.sign() + 1) / 2
    return smaller.sum(1) + 0.5


def srcc_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float) -> torch.Tensor:
    """1 - Spearman's correlation, with soft ranks of the predictions."""
    ranks = soft_ranks(predicted, SOFTNESS * std), soft_ranks(mos, 0)
    return plcc_loss(*ranks, max(len(mos), 2) / 12**0.5)  # the deviation of ranks without ties


def batch_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float, loss: LossSettings) -> torch.Tensor:
    """The weighted sum of the losses; 0 below two labels. Photos whose mos is NaN are left out."""
    labelled = ~mos.isnan()
    if labelled.sum() < 2:
        return (predicted * 0).sum()  # with a gradient, of zeros
    total = predicted.new_zeros(())
    pair = predicted[labelled].float(), mos[labelled]
    for weight, function in ((loss.plcc, plcc_loss), (loss.rank, rank_loss), (loss.srcc, srcc_loss)):
        if weight:
            total = total + weight * function(*pair, std)
    return total

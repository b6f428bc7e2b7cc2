"""MOS losses that compare the photos of a batch with each other; each is a scalar.

predicted, mos: float32 [N]; labelled: bool [N], the photos that take part, whatever the others' finite values are;
std: the training labels' standard deviation. To count the labelled photos, or to leave the others out, would wait for
a GPU: they are masked.
"""

import torch
import torch.nn.functional as F

from src.settings.schema import LossSettings

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

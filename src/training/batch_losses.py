"""Losses of the score that hold for a whole batch, not for one photo: they compare photos with each other.

predicted, mos: float32 [N], all with a label; spread: the training labels' standard deviation. Each gives a number.
"""

import torch
import torch.nn.functional as F

from src.settings.schema import LossSettings

SOFTNESS = 0.1
"""Width of a soft rank's step, in standard deviations of the labels."""
_FLOOR = 1e-4  # added to variances in units of the labels': predictions are all equal before the first step


def plcc_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float) -> torch.Tensor:
    """1 less Pearson's correlation."""
    x, y = ((values - values.mean()) / spread for values in (predicted, mos))
    return 1 - (x * y).mean() * ((x.square().mean() + _FLOOR) * (y.square().mean() + _FLOOR)).rsqrt()


def rank_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float) -> torch.Tensor:
    """Logistic loss of each pair's order, the mean over pairs of different labels (RankNet, Burges et al. 2005)."""
    sign = (mos.unsqueeze(1) - mos).sign().triu()
    apart = (predicted.unsqueeze(1) - predicted) / spread
    return (F.softplus(-apart * sign) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)


def soft_ranks(values: torch.Tensor, softness: float) -> torch.Tensor:
    """Ranks [N], from 1, ties at their mean: how many values are smaller, each counted by a sigmoid of the difference
    over `softness` (Qin, Liu and Li 2010). The limit 0 gives the ranks themselves."""
    apart = values.unsqueeze(1) - values
    smaller = torch.sigmoid(apart / softness) if softness else (apart.sign() + 1) / 2
    return smaller.sum(1) + 0.5


def srcc_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float) -> torch.Tensor:
    """1 less Spearman's correlation, with soft ranks of the predictions."""
    ranks = soft_ranks(predicted, SOFTNESS * spread), soft_ranks(mos, 0)
    return plcc_loss(*ranks, max(len(mos), 2) / 12**0.5)  # the deviation of ranks without ties


def batch_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float, loss: LossSettings) -> torch.Tensor:
    """The weighted sum of the losses; 0 below two labels. mos may be NaN: such a photo is left out."""
    known = ~mos.isnan()
    if known.sum() < 2:
        return (predicted * 0).sum()
    pair = predicted[known].float(), mos[known]
    weighed = ((loss.plcc, plcc_loss), (loss.rank, rank_loss), (loss.srcc, srcc_loss))
    return sum(weight * function(*pair, spread) for weight, function in weighed if weight)

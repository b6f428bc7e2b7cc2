"""Losses of one photo each, never a mean: the engine divides once, by counts over the whole step."""

import torch
import torch.nn.functional as F

from src.models.decoder import PAD


def quality_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float, kind: str) -> torch.Tensor:
    """Loss of the predicted MOS in units of the labels' standard deviation: float32 [B], 0 where mos is NaN.

    predicted, mos: [B] on the labels' scale. kind: squared, or huber (Huber 1964, quadratic within one deviation).
    """
    known = ~mos.isnan()
    error = (predicted.float() - mos.nan_to_num()) / spread
    loss = F.huber_loss(error, torch.zeros_like(error), reduction="none") if kind == "huber" else 0.5 * error.square()
    return loss * known


def caption_loss(log_probs: torch.Tensor, captions: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross entropy summed over a photo's captions: float32 [B]; padding costs nothing.

    log_probs: [B, S, T, V] of every token where smoothing > 0, else [B, S, T] of the captions' own tokens.
    smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016).
    """
    words = captions != PAD
    if log_probs.dim() == captions.dim():
        return -(log_probs * words).sum((1, 2))
    own = log_probs.gather(-1, captions.unsqueeze(-1)).squeeze(-1)
    each = (1 - smoothing) * own + smoothing * log_probs.mean(-1)
    return -(each * words).sum((1, 2))

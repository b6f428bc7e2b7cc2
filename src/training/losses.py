"""Losses of one photo each, never a mean: the engine divides once, by counts over the whole step."""

import torch
import torch.nn.functional as F

from src.models.decoder import PAD, word_counts


def mos_loss(predicted: torch.Tensor, mos: torch.Tensor, spread: float, kind: str) -> torch.Tensor:
    """Loss of the predicted MOS in units of the labels' standard deviation: float32 [B], 0 where mos is NaN.

    predicted, mos: [B] on the labels' scale. kind: squared, huber (Huber 1964, quadratic within one deviation) or
    none.
    """
    known = ~mos.isnan()
    if kind == "none":
        return torch.zeros_like(mos, dtype=torch.float32)
    error = (predicted.float() - mos.nan_to_num()) / spread
    loss = F.huber_loss(error, torch.zeros_like(error), reduction="none") if kind == "huber" else 0.5 * error.square()
    return loss * known


def distribution_loss(shares: torch.Tensor, mos: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """Earth mover's distance of the predicted distribution of scores from the photo's: float32 [B], 0 where mos is NaN.

    The root of the mean squared difference of the cumulative distributions (Talebi and Milanfar 2018, NIMA, r = 2).
    shares: [B, K] of K whole scores from `lowest` on. Of the photo's own distribution the mean is all that is known:
    its share goes to the two whole scores around it, so that this mean is the label exactly.
    """
    place = torch.where(mos.isnan(), lowest, mos) - lowest
    # up to the whole score k lies what is not above it: all of it from the upper neighbour on
    below = (torch.arange(shares.shape[1], device=mos.device) + 1 - place.unsqueeze(1)).clamp(0, 1)
    squared = (shares.float().cumsum(1) - below).square().mean(1)
    return (squared + 1e-8).sqrt() * ~mos.isnan()


def caption_loss(log_probs: torch.Tensor, captions: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross entropy summed over each caption: float32 [N]; padding costs nothing.

    log_probs: [N, T, V] of every token; captions: int64 [N, T].
    smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016).
    """
    own = log_probs.gather(-1, captions.unsqueeze(-1)).squeeze(-1)
    each = (1 - smoothing) * own + smoothing * log_probs.mean(-1)
    return -(each * (captions != PAD)).sum(1)


def alignment_loss(
    log_probs: torch.Tensor, canvas: torch.Tensor, hidden: torch.Tensor, captions: torch.Tensor, blank: int
) -> torch.Tensor:
    """Minus the log-probability of all alignments of each caption that have the symbols shown: float32 [N].

    log_probs: [N, P, V]; canvas: int64 [N, P], an alignment of the caption, PAD behind its end; hidden: bool [N, P],
    where its symbols are not given but asked for. What is shown is certain and costs nothing. captions: int64 [N, T],
    of which an empty one costs nothing. A caption that its canvas has no room for costs infinitely much; `mask_tokens`
    of a decoder makes no such.
    """
    given = torch.full_like(log_probs, float("-inf")).scatter(2, canvas.unsqueeze(2), 0.0)
    certain = torch.where(hidden.unsqueeze(2), log_probs, given).transpose(0, 1)
    words, places = word_counts(captions), (canvas != PAD).sum(1)
    loss = F.ctc_loss(certain, captions, places.clamp(min=1), words, blank=blank, reduction="none")
    return torch.where(words > 0, loss, 0.0)


def attention_loss(attention: torch.Tensor, captions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over a photo's cells of (1 - what the caption looked at it in all) squared: float32 [N].

    The doubly stochastic term of Xu et al. 2015 (equation 14), with the mean over cells in place of the sum, so that
    its weight means the same for any grid. attention: [N, T, cells]; captions: int64 [N, T], of which an empty one
    costs nothing; mask: bool [N, cells].
    """
    words = captions != PAD
    looked = (attention.float() * words.unsqueeze(2)).sum(1)
    off = (1 - looked).square() * mask
    return off.sum(1) / mask.sum(1).clamp(min=1) * words.any(1)

"""Losses of each photo or caption, never a mean: the engine divides once, by counts over the whole step."""

import torch
import torch.nn.functional as F

from src.models.decoder import PAD, word_counts


def mos_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float, kind: str) -> torch.Tensor:
    """Loss of the predicted MOS in units of the labels' standard deviation: float32 [B], 0 where mos is NaN.

    predicted, mos: [B] on the labels' scale. kind: mse, huber (Huber 1964, quadratic within one deviation) or none.
    """
    if kind == "none":
        return torch.zeros_like(mos, dtype=torch.float32)
    error = (predicted.float() - mos.nan_to_num()) / std
    loss = F.huber_loss(error, torch.zeros_like(error), reduction="none") if kind == "huber" else 0.5 * error.square()
    return loss * ~mos.isnan()


def distribution_loss(probabilities: torch.Tensor, mos: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """Earth mover's distance between the predicted and the photo's distribution of scores: float32 [B], 0 for NaN.

    The root of the mean squared difference of the cumulative distributions (Talebi and Milanfar 2018, NIMA, r = 2).
    probabilities: [B, K], of K whole scores from `lowest` on. Only the mean of the photo's own distribution is known:
    its mass is put on the two whole scores around that mean, so that their mean is the label exactly.
    """
    place = torch.where(mos.isnan(), lowest, mos) - lowest
    # cumulative distribution of the label: 0 below the lower neighbour, 1 from the upper one on
    cumulative = (torch.arange(probabilities.shape[1], device=mos.device) + 1 - place.unsqueeze(1)).clamp(0, 1)
    squared = (probabilities.float().cumsum(1) - cumulative).square().mean(1)
    return (squared + 1e-8).sqrt() * ~mos.isnan()  # the root has no gradient at 0


def token_losses(log_probs: torch.Tensor, tokens: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross entropy of each token, 0 at PAD: float32, shaped as `tokens`.

    log_probs: [..., V]; tokens: int64 [...]. smoothing: share of the target spread evenly over the vocabulary (Szegedy
    et al. 2016).
    """
    # the exact gradient of gather would wait for a GPU
    loss = F.nll_loss(log_probs.flatten(0, -2), tokens.flatten(), ignore_index=PAD, reduction="none").view_as(tokens)
    return torch.lerp(loss, -log_probs.mean(-1) * (tokens != PAD), smoothing) if smoothing else loss


def alignment_loss(
    log_probs: torch.Tensor, canvas: torch.Tensor, masked: torch.Tensor, captions: torch.Tensor, blank: int
) -> torch.Tensor:
    """CTC loss over the alignments of each caption that agree with the visible symbols: float32 [N].

    log_probs: [N, P, V]. canvas: int64 [N, P], an alignment of the caption, PAD behind its end. masked: bool [N, P],
    the places whose symbols are to be predicted; the others have probability 1 and cost nothing. captions: int64
    [N, T]; an empty one costs nothing. A caption that does not fit its canvas costs infinitely much; a decoder's
    `mask_tokens` never makes such a canvas.

    Forward and backward variables of Graves et al. 2006, whose states are blank, word, blank … word, blank. F.ctc_loss
    reads the lengths of captions and canvases, and so waits for a GPU, and has no exact gradient there.
    """
    words = word_counts(captions)
    symbols = captions.new_full((len(captions), 2 * captions.shape[1] - 1), blank)
    symbols[:, 1::2] = captions[:, :-1]
    row = torch.arange(len(captions), device=captions.device).unsqueeze(1)
    emitted = log_probs.transpose(1, 2)[row, symbols].transpose(1, 2)  # [N, P, states]
    with torch.no_grad():
        visible = torch.where(symbols.unsqueeze(1) == canvas.unsqueeze(2), 0.0, float("-inf")).to(emitted.dtype)
        joint = _alignments(torch.where(masked.unsqueeze(2), emitted, visible), canvas != PAD, symbols, words)
        total = joint[:, :1].logsumexp(2, keepdim=True)
        share = (joint - total).exp().nan_to_num() * masked.unsqueeze(2)
    # the gradient by an emission is its share of the alignments' probability; the value added is 0
    loss = -total.flatten() - (share * (emitted - emitted.detach())).sum((1, 2))
    return torch.where(words > 0, loss, 0.0)


def _alignments(
    emitted: torch.Tensor, within: torch.Tensor, symbols: torch.Tensor, words: torch.Tensor
) -> torch.Tensor:
    """Log-probability of all alignments that are in a state at a place: [N, P, S].

    emitted: [N, P, S], of each state's symbol at each place. within: bool [N, P], the places that are aligned. symbols:
    int64 [N, S]. words: int64 [N]; alignments end in state 2 * words or the one before.
    """
    states = torch.arange(symbols.shape[1], device=symbols.device)
    skips = (states >= 3) & (states % 2 == 1) & (symbols != symbols.roll(2, 1))  # the blank before it
    # both directions at once: from the end on, a state's neighbours are mirrored
    emission = torch.cat([emitted, emitted.flip(1, 2)])
    within = torch.cat([within, within.flip(1)]).unsqueeze(2)
    skipped = torch.cat([skips, skips.flip(1).roll(2, 1)])
    skipped = torch.where(skipped, 0.0, float("-inf")).to(emitted.dtype)
    last = len(states) - 1 - 2 * words.unsqueeze(1)
    begun = torch.cat([(states == 0).expand(len(words), -1), states == last])
    reached = F.pad(torch.where(begun, 0.0, float("-inf")).to(emitted.dtype), (2, 0), value=float("-inf"))
    entered = []
    for place in range(emission.shape[1]):
        before = reached[:, 2:]
        entered.append(torch.logaddexp(before, reached[:, 1:-1]).logaddexp(reached[:, :-2] + skipped))
        reached[:, 2:] = torch.where(within[:, place], entered[-1] + emission[:, place], before)
    forward, backward = torch.stack(entered, 1).chunk(2)
    return forward + emitted + backward.flip(1, 2)


def attention_loss(attention: torch.Tensor, captions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over a photo's cells of (1 - the attention that they get over the caption) squared: float32 [N].

    The doubly stochastic term of Xu et al. 2015 (equation 14), with the mean over cells in place of the sum, so that
    its weight means the same for any grid. attention: [N, T, cells]; captions: int64 [N, T], of which an empty one
    costs nothing; mask: bool [N, cells].
    """
    words = captions != PAD
    received = (attention.float() * words.unsqueeze(2)).sum(1)
    squared = (1 - received).square() * mask
    return squared.sum(1) / mask.sum(1).clamp(min=1) * words.any(1)

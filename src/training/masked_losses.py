"""Losses of a non-autoregressive captioner: of the masked tokens of captions, and of the captions' lengths.

captions: int64 [N, T], row n of photo n. uniforms: float32 [N, R], which decide what `mask_tokens` of the decoder
masks. A canvas is a caption laid out on the decoder's places, of which the masked ones are to be predicted.
"""

import torch

from src.decoding.ctc_search import collapse
from src.decoding.mask_predict_search import best_tokens
from src.models.decoder import PAD, NonAutoregressiveDecoder, word_counts
from src.models.features import Features
from src.training.losses import alignment_loss, token_losses


def masked_counts(decoder: NonAutoregressiveDecoder, captions: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """How many words of each caption are masked: int64 [N]."""
    canvas, masked = decoder.mask_tokens(captions, uniforms)
    return masked.sum(1) if decoder.blank is None else (masked & (canvas != decoder.blank)).sum(1)


def masked_losses(
    decoder: NonAutoregressiveDecoder,
    features: Features,
    captions: torch.Tensor,
    uniforms: torch.Tensor,
    smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of the masked tokens of each caption, and the loss of its length: float32 [N] each.

    Visible tokens are input only and add no loss. An empty caption has neither loss.
    """
    encoded = decoder.encode(features)
    canvas, masked = decoder.mask_tokens(captions, uniforms)
    log_probs = decoder.predict_masked(encoded, canvas.masked_fill(masked, decoder.mask))
    if decoder.blank is None:
        loss = token_losses(log_probs, canvas.masked_fill(~masked, PAD), smoothing).sum(1)
    else:
        loss = alignment_loss(log_probs, canvas, masked, captions, decoder.blank)
    length = decoder.length_loss(encoded, word_counts(captions))
    return loss, torch.where((captions != PAD).any(1), length, 0.0)


@torch.no_grad()
def fill_masked(
    decoder: NonAutoregressiveDecoder, features: Features, captions: torch.Tensor, uniforms: torch.Tensor, width: int
) -> torch.Tensor:
    """The captions with their masked tokens replaced by predictions: tokens [N, width].

    The rest of the reference is visible: this measures how training goes, not how well the captioner writes.
    """
    canvas, masked = decoder.mask_tokens(captions, uniforms)
    log_probs = decoder.predict_masked(decoder.encode(features), canvas.masked_fill(masked, decoder.mask))
    predicted, _ = best_tokens(log_probs, canvas != PAD)
    return collapse(torch.where(masked, predicted, canvas), decoder.blank, width)

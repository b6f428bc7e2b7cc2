"""What a non-autoregressive captioner learns from: captions of which some words are hidden, and their lengths."""

import torch

from src.decoding.ctc_search import collapse
from src.decoding.mask_predict_search import best_tokens
from src.models.decoder import PAD, NonAutoregressiveDecoder, word_counts
from src.models.features import Features
from src.training.losses import alignment_loss, caption_loss


def masked_counts(decoder: NonAutoregressiveDecoder, captions: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """How many words of each of `captions` [N, T] are hidden: int64 [N]. See `mask_tokens` of the decoder."""
    canvas, hidden = decoder.mask_tokens(captions, uniforms)
    return hidden.sum(1) if decoder.blank is None else (hidden & (canvas != decoder.blank)).sum(1)


def masked_losses(
    decoder: NonAutoregressiveDecoder,
    features: Features,
    captions: torch.Tensor,
    uniforms: torch.Tensor,
    smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of what is hidden in each of `captions` [N, T], and the loss of its length: float32 [N] each.

    Row n belongs to photo n. What is shown adds nothing to the loss: it is an input only. An empty caption has none.
    """
    seen = decoder.encode(features)
    canvas, hidden = decoder.mask_tokens(captions, uniforms)
    log_probs = decoder.predict_masked(seen, canvas.masked_fill(hidden, decoder.mask))
    if decoder.blank is None:
        said = caption_loss(log_probs, canvas.masked_fill(~hidden, PAD), smoothing)
    else:
        said = alignment_loss(log_probs, canvas, hidden, captions, decoder.blank)
    length = decoder.length_loss(seen, word_counts(captions))
    return said, torch.where((captions != PAD).any(1), length, 0.0)


@torch.no_grad()
def with_visible_words(
    decoder: NonAutoregressiveDecoder, features: Features, captions: torch.Tensor, uniforms: torch.Tensor, width: int
) -> torch.Tensor:
    """`captions` [N, T] with what training would hide replaced by what the captioner says there: tokens [N, width].

    It sees the rest of the very caption: this measures how training goes, not what the captioner writes by itself.
    """
    canvas, hidden = decoder.mask_tokens(captions, uniforms)
    log_probs = decoder.predict_masked(decoder.encode(features), canvas.masked_fill(hidden, decoder.mask))
    said, _ = best_tokens(log_probs, canvas != PAD)
    return collapse(torch.where(hidden, said, canvas), decoder.blank, width)

"""The whole network: an encoder with a quality head, a caption decoder, or both."""

import torch
from torch import nn

from src.errors import InputError
from src.models.decoder import Decoder
from src.models.encoder import Encoder, build_encoder
from src.models.features import Features
from src.models.quality_head import QualityHead
from src.models.recurrent import Recurrent
from src.settings import Decoder as DecoderSettings
from src.settings import Settings

DECODERS: dict[str, type[Decoder]] = {"recurrent": Recurrent}


def build_decoder(settings: DecoderSettings, vocabulary_size: int, feature_width: int) -> Decoder:
    """The decoder named in the settings. Raises InputError for a name that is not in DECODERS."""
    if settings.name not in DECODERS:
        raise InputError(f"decoder.name={settings.name} is not known; give one of {', '.join(sorted(DECODERS))}")
    return DECODERS[settings.name](settings, vocabulary_size, feature_width)


class Captioner(nn.Module):
    """Encoder, `quality` (None where no MOS is predicted) and `decoder` (None where no caption is)."""

    def __init__(self, encoder: Encoder, quality: QualityHead | None, decoder: Decoder | None):
        super().__init__()
        self.encoder = encoder
        self.quality = quality
        self.decoder = decoder

    def features(self, pixels: torch.Tensor) -> Features:
        """Features of uint8 pixels [B, H, W, C]."""
        return self.encoder(pixels)

    def mos(self, features: Features) -> torch.Tensor:
        """Predicted MOS, float32 [B], on the labels' scale."""
        return self.quality(features.pooled)

    def caption_log_probs(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Log-probability of each token of captions [B, S, T], S captions a photo: float32 [B, S, T], 0 at PAD."""
        rows = self.decoder.log_prob(features.repeat(captions.shape[1]), captions.flatten(0, 1))
        return rows.view_as(captions)

    def caption_distribution(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of every token at each place, for causal decoders: float32 [B, S, T, V]."""
        rows = self.decoder.distribution(features.repeat(captions.shape[1]), captions.flatten(0, 1))
        return rows.unflatten(0, captions.shape[:2])


def build(
    settings: Settings,
    channels: int,
    vocabulary_size: int,
    mos_range: tuple[float, float, float],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Captioner:
    """The network that `settings` describe, with freshly drawn weights (from torch's default generator).

    `mos_range` is (low, high, mean) of the training labels, `mean` and `std` those of the training pixels per
    channel on the scale 0 to 1. `mos_range` is not read where settings.task is "caption", nor `vocabulary_size`
    where it is "mos". Raises InputError where the settings ask for what cannot be built.
    """
    encoder = build_encoder(
        settings.encoder, channels, settings.view.size, mean, std, channels_last=settings.train.channels_last
    )
    quality = decoder = None
    if settings.task != "caption":
        quality = QualityHead(encoder.width, settings.quality.dropout, *mos_range)
    if settings.task != "mos":
        decoder = build_decoder(settings.decoder, vocabulary_size, encoder.width)
    return Captioner(encoder, quality, decoder)

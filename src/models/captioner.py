"""The whole network: an encoder with a MOS head, a caption decoder, or both."""

import torch
from torch import nn

from src.base.errors import InputError
from src.models.attention import ShowAttendTell
from src.models.ctc import CTCMaskPredict
from src.models.decoder import Decoder
from src.models.encoder import Encoder
from src.models.features import Features
from src.models.fine_tuning import LateStages
from src.models.large_decoders import LargeDecoder
from src.models.large_models import build_large_decoder, build_tower
from src.models.levels import LevelsInGrid
from src.models.mask_predict import MaskPredict
from src.models.mos_head import DistributionHead, MosHead
from src.models.recurrent import Recurrent
from src.models.transformer import Transformer
from src.models.updown import UpDown
from src.settings.model import LARGE
from src.settings.schema import DecoderSettings, Settings

DECODERS: dict[str, type[Decoder]] = {
    "recurrent": Recurrent,
    "attention": ShowAttendTell,
    "updown": UpDown,
    "transformer": Transformer,
    "mask_predict": MaskPredict,
    "ctc_mask_predict": CTCMaskPredict,
}


def build_decoder(
    settings: DecoderSettings, vocabulary_size: int, feature_width: int, pretrained: bool = True
) -> Decoder:
    """The decoder named in the settings; a published one brings its own vocabulary, and weights if `pretrained`."""
    if settings.name in LARGE:
        return build_large_decoder(settings, pretrained)
    return DECODERS[settings.name](settings, vocabulary_size, feature_width)


class Captioner(nn.Module):
    """An `encoder`, `mos_head` (None where no MOS is predicted) and `decoder` (None where no caption is).

    `levels_in_grid`: what shows the decoder the encoder's levels; None where it gives none. `late_stages`: those of
    encoder.fine_tuned, whose output the MOS head sees as well; None where there is no such.
    """

    def __init__(
        self,
        encoder: Encoder,
        mos_head: MosHead | DistributionHead | None,
        decoder: Decoder | None,
        levels_in_grid: LevelsInGrid | None = None,
        late_stages: LateStages | None = None,
    ):
        super().__init__()
        self.levels_in_grid = levels_in_grid
        self.late_stages = late_stages
        self.encoder = encoder
        self.mos_head = mos_head
        self.decoder = decoder

    def features(self, images: torch.Tensor | dict[str, torch.Tensor]) -> Features:
        """Features of uint8 pixels [B, H, W, C], or cached ones.

        Cached features are a dict of `grid`, `mask` and `pooled`, of `levels` and `stage` where there are such, and for
        regions of `boxes`, of the shapes in Features.
        """
        return self.with_levels(self.encoded(images))

    def with_levels(self, features: Features) -> Features:
        """The encoder's features as the decoder sees them."""
        return features if self.levels_in_grid is None else self.levels_in_grid(features)

    def encoded(self, images: torch.Tensor | dict[str, torch.Tensor]) -> Features:
        """The features that the encoder gives; `images` as for `features`."""
        if isinstance(images, torch.Tensor):
            return self.encoder(images)
        layout = images.get("boxes", self.encoder.layout)
        levels, stage = (images[name].float() if name in images else None for name in ("levels", "stage"))
        return Features(images["grid"].float(), images["mask"], layout, images["pooled"].float(), levels, stage)

    def checkpoint_gradients(self) -> None:
        """Compute activations inside the blocks again in the backward pass.

        Raises InputError where neither the encoder nor the decoder can, or nothing of the encoder is trained.
        """
        able = not self.encoder.frozen and self.encoder.checkpoint_gradients()
        if isinstance(self.decoder, LargeDecoder):
            able = self.decoder.checkpointed = True
        if not able:
            raise InputError(
                "train.gradient_checkpointing=true needs an encoder that is trained and whose timm model can do it, or "
                "a published captioner; leave it out"
            )

    def freeze_unread(self) -> None:
        """Freeze the encoder's pooling where captions alone are learned, by a decoder that reads cells alone."""
        if self.mos_head is None and self.decoder is not None and not self.decoder.reads_pooled:
            for parameter in self.encoder.pooling:
                parameter.requires_grad_(False)

    def mos_inputs(self, features: Features, rows: torch.Tensor | None = None) -> torch.Tensor:
        """What the MOS head sees, [B, D]. rows: the photos that the late stages are run on, int64; not given: all."""
        if self.late_stages is None:
            return features.for_mos
        assert features.stage is not None
        if rows is None or len(rows) == len(features):
            late = self.late_stages(features.stage)
        else:
            late = features.for_mos.new_zeros(len(features), self.late_stages.width)
            late = late.index_copy(0, rows, self.late_stages(features.stage[rows]))
        return torch.cat([features.for_mos, late], dim=1)

    def mos(self, features: Features) -> torch.Tensor:
        """Predicted MOS, float32 [B], on the scale of the labels."""
        assert self.mos_head is not None, "a network for captions only"
        return self.mos_head(self.mos_inputs(features))


def with_heads(
    encoder: Encoder, settings: Settings, vocabulary_size: int, mos_range: tuple[float, float, float]
) -> Captioner:
    """The network around an encoder; the weights of its heads are drawn from torch's default generator.

    `mos_range`: (low, high, mean) of the training labels, unused where settings.task is "caption". `vocabulary_size` is
    unused where it is "mos". Raises InputError where the settings ask for what cannot be built.
    """
    mos_head = decoder = levels_in_grid = late_stages = None
    if settings.task != "caption":
        width = encoder.levels_width or encoder.width
        if settings.encoder.fine_tunes:
            from src.models.encoders import build_late_stages  # imports timm

            channels = settings.view.channels
            late_stages = build_late_stages(settings.encoder, channels, settings.train.channels_last)
            width += late_stages.width
        head = DistributionHead if settings.loss.mos == "distribution" else MosHead
        mos_head = head(width, settings.mos_head, *mos_range)
    if settings.task != "mos":
        decoder = build_decoder(settings.decoder, vocabulary_size, encoder.width, settings.encoder.pretrained)
        longest = max(settings.vocabulary.maximum_words, settings.decoding.maximum_words)
        if isinstance(decoder, LargeDecoder) and longest >= decoder.positions:
            raise InputError(
                f"decoder.weights={settings.decoder.weights} writes at most {decoder.positions - 1} tokens; give "
                "vocabulary.maximum_words and decoding.maximum_words that are no greater"
            )
        if encoder.levels_width:
            levels_in_grid = LevelsInGrid(encoder.levels_width, encoder.width, settings.decoder.dropout)
    return Captioner(encoder, mos_head, decoder, levels_in_grid, late_stages)


def build_captioner(
    settings: Settings,
    channels: int,
    vocabulary_size: int,
    mos_range: tuple[float, float, float],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Captioner:
    """The network that `settings` describe, with weights drawn from torch's default generator.

    `mean` and `std`: of the training pixels per channel on the scale 0 to 1; the rest as in `with_heads`.
    """
    return with_heads(encoder_of(settings, channels, mean, std), settings, vocabulary_size, mos_range)


def encoder_of(settings: Settings, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """The encoder that `settings` describe, with the statistics of the training pixels where it has none of its own."""
    size = settings.view.size
    if settings.encoder.own_tower:
        return build_tower(settings.encoder, settings.decoder, channels, size)
    from src.models.encoders import build_encoder  # timm takes two seconds, and cached features do without it

    return build_encoder(settings.encoder, channels, size, mean, std, channels_last=settings.train.channels_last)

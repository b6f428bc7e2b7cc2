"""The encoder that settings describe: a backbone, joined by those that give further levels and early stages."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from src.base.errors import InputError
from src.base.text import said_by
from src.models.backbone import BackboneEncoder, build_backbone, independent
from src.models.encoder import Encoder, JoinedEncoder
from src.models.fine_tuning import EarlyStages, LateStages, split_backbone
from src.settings.schema import EncoderSettings


def build_encoder(
    settings: EncoderSettings,
    channels: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels_last: bool = False,
) -> Encoder:
    """The encoder that `settings` name, for square photos of `size` pixels and 1 or 3 `channels`.

    Where features are cached, the levels of encoder.more_levels are among them, and the output of the early stages of
    encoder.fine_tuned. Its input is normalised by the backbone's published statistics where it starts from weights,
    else by `mean` and `std` (per channel, on the scale 0 to 1). Raises InputError, in one line, for an unknown name,
    for a size, number of channels or stride that the backbone cannot take, and for weights that cannot be had.
    """
    encoder = build_backbone(settings, channels, size, mean, std, channels_last)
    if not settings.others:
        return encoder
    others = []
    for name in settings.levels_of_others:
        with named("encoder.more_levels"):
            others.append(build_backbone(_other(settings, name), channels, size, mean, std, channels_last))
    early = _split(settings, channels, mean, std, channels_last)[0] if settings.fine_tunes else None
    return JoinedEncoder(encoder, others, early)


def build_late_stages(settings: EncoderSettings, channels: int, channels_last: bool = False) -> LateStages:
    """The stages of encoder.fine_tuned that are trained; raises InputError as `build_encoder` does."""
    return _split(settings, channels, (0.0,) * channels, (1.0,) * channels, channels_last)[1]


def _other(settings: EncoderSettings, name: str) -> EncoderSettings:
    return replace(settings, name=name, weights=None, output_stride=None)


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Errors of a further backbone name the setting that it comes from."""
    try:
        yield
    except InputError as error:
        text = (
            str(error).replace("encoder.name", key).replace("encoder.weights=FILE or ", "")
        )  # that is the encoder's own
        raise InputError(text if key in text else f"{key}: {text}") from None


def _split(
    settings: EncoderSettings, channels: int, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool
) -> tuple[EarlyStages, LateStages]:
    name, size = settings.fine_tuned or "", settings.fine_tuned_size
    with named("encoder.fine_tuned"):
        whole = build_backbone(replace(_other(settings, name), levels=False), channels, size, mean, std, channels_last)
    backbone = whole.backbone if isinstance(whole, BackboneEncoder) else None
    try:
        early, late = split_backbone(backbone, settings.frozen_stages, size)
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"encoder.fine_tuned={name} cannot be split after encoder.frozen_stages={settings.frozen_stages}: "
            f"{said_by(error)}"
        ) from None
    late.requires_grad_(True)
    with torch.enable_grad():
        output = late.eval().forward_features(early.eval().forward_features(torch.zeros(1, channels, size, size)))
    for parameter in independent(output, dict(late.named_parameters())).values():
        parameter.requires_grad_(False)  # such as a norm before the classifier: DDP would wait for its gradient
    return EarlyStages(early, size, whole.mean, whole.std, whole.memory_format), LateStages(late, whole.width)

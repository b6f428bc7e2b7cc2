"""A fold's task as training begins: the network with its first weights, and the scale of the labels."""

from pathlib import Path

import torch

from src.base.randomness import fold_in, seed_torch
from src.models.captioner import Captioner, build_captioner, with_heads
from src.settings.schema import Settings
from src.training.feature_cache import cached_encoder, feature_statistics, frozen_encoder, late_statistics
from src.training.fold_data import FoldData
from src.training.task import Task

_PASSES = 4
"""Of a non-autoregressive captioner in validation, whatever decoding.passes is, which changes no network."""


def build_task(settings: Settings, data: FoldData, fold: int) -> Task:
    """The fold's task with weights drawn from (run.seed, fold); a frozen encoder's from run.seed alone."""
    scale, words = data.scale(settings.task), len(data.vocabulary)
    mos_range, seed = (scale.low, scale.high, scale.mean), fold_in(settings.run.seed, "weights", fold)
    mean, std = data.channel_mean, data.channel_std
    if settings.encoder.frozen:
        features = data.labels.features
        encoder = cached_encoder(features) if features else frozen_encoder(settings, mean, std)
        seed_torch(seed)
        network = with_heads(encoder, settings, words, mos_range)
        if encoder.levels_width and features:
            _standardise(network, features, data)
    else:
        seed_torch(seed)
        network = build_captioner(settings, len(mean), words, mos_range, mean, std)
    if settings.train.gradient_checkpointing:
        network.checkpoint_gradients()
    return Task(network, settings.loss, scale, settings.vocabulary.maximum_words, _PASSES)


def _standardise(network: Captioner, features: Path, data: FoldData) -> None:
    """Give each head the statistics of the cached levels of the training photos that it learns from, and the MOS head
    those of what the late stages make of some."""
    if network.levels_in_grid is not None:
        network.levels_in_grid.standardiser.fit(*feature_statistics(features, data.labelled("caption")))
    if network.mos_head is not None:
        rows = data.labelled("mos")
        mean, std = feature_statistics(features, rows)
        if network.late_stages is not None:
            late_mean, late_std = late_statistics(network.late_stages, features, rows)
            mean, std = torch.cat([mean, late_mean]), torch.cat([std, late_std])
        network.mos_head.standardiser.fit(mean, std)

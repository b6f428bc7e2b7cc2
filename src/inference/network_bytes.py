"""The networks built before a run, and the bytes that the run will write of them."""

from typing import NamedTuple

import torch

from src.inference.mos_prediction import MosPredictor
from src.models.captioner import encoder_of, with_heads
from src.models.encoders import named
from src.models.lora import learned_state
from src.pipeline import outputs
from src.settings.schema import Settings
from src.training.distributed import Ranks, sync_batchnorm
from src.training.feature_cache import FOR_MOS, feature_bytes, frozen_encoder
from src.training.infer import autocast
from src.training.optimizer import STATE_BYTES, check_optimizer


class NetworkBytes(NamedTuple):
    """Bytes of what a run writes of its networks."""

    features: dict[str, int]
    """Of one photo, by file; none where they are not cached."""
    encoder: int
    """Of encoder.pt, beside the features."""
    resumed: int
    """Of a fold's last.pt."""
    best: int
    """Of each of its best-*.pt."""


def network_bytes(settings: Settings) -> NetworkBytes:
    """Build the network, its published weights included, as training and predict do on this machine.

    Raises InputError where one of them could not.
    """
    channels = settings.view.channels
    mean, std = (0.5,) * channels, (0.25,) * channels
    if settings.encoder.frozen:
        encoder = frozen_encoder(settings, mean, std)
    else:
        encoder = encoder_of(settings, channels, mean, std)
    network = with_heads(encoder, settings, 10, (0.0, 10.0, 5.0))
    if settings.train.gradient_checkpointing:
        network.checkpoint_gradients()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sync_batchnorm(network, settings, Ranks(0, 1, device))
    autocast(settings, device)
    check_optimizer(settings.optim, device)
    MosPredictor(network, settings.predict.tta_flips, settings.predict.tta_scales)
    cached = feature_bytes(encoder.eval(), settings) if settings.encoder.cached else {}
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    resumed = (8 + STATE_BYTES[settings.optim.name]) * trained  # the weights, their average, the optimiser's state
    kept = _state_bytes(encoder) if settings.encoder.cached else 0
    return NetworkBytes(cached, kept, resumed, _state_bytes(network))


def _state_bytes(module: torch.nn.Module) -> int:
    return 4 * sum(value.numel() for value in learned_state(module).values())


def encoder_bytes(settings: Settings, name: str) -> dict[str, int]:
    """Bytes of a photo's features by file, of a model of ensemble.encoders, which is built and run once.

    Raises InputError where it, or its published weights, cannot be had.
    """
    channels = settings.view.channels
    alone = outputs.encoder_settings(settings, name)
    with named("ensemble.encoders"):
        encoder = frozen_encoder(alone, (0.5,) * channels, (0.25,) * channels, for_mos_alone=True)
        kept = feature_bytes(encoder, alone).items()
    return {f"{name} {file}": size for file, size in kept if file.removesuffix(".npy") in FOR_MOS}

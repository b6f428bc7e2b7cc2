"""The published model with a fold's adapters merged into its weights, as a folder that transformers or timm loads."""

from pathlib import Path

import torch
from timm.models import save_for_hf

from src.base.errors import InputError
from src.base.files import fresh_folder, read_json
from src.inference.networks import open_network
from src.models.backbone import BackboneEncoder
from src.models.large_decoders import LargeDecoder
from src.models.large_models import VisionTower, save_captioner
from src.pipeline.outputs import start_weights
from src.pipeline.runs import best_checkpoint, marker_of
from src.settings.schema import Settings


def merge_fold(settings: Settings, fold: Path, folder: Path) -> str:
    """Write the model of a trained fold to a folder that is absent or empty; the name of the checkpoint it is of.

    Of a published captioner it is the whole model, of an encoder of timm that encoder. settings: those that the fold
    was trained with. Raises InputError where it is not finished or has no adapters, or where its published weights are
    no longer those beside which they were trained.
    """
    marker = marker_of(fold)
    if not marker.is_file():
        raise InputError(f"{fold} is not a finished fold; train it first")
    if not settings.adapts:
        raise InputError(f"{fold} was trained without adapters (encoder.lora_rank, decoder.lora_rank): none to merge")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"--merge {folder}: there is something of that name; name a folder that is not there yet")
    if read_json(marker)["inputs"].get("weights") != start_weights(settings).get("weights"):
        published = settings.decoder.weights or settings.encoder.weights
        raise InputError(f"{fold} was trained beside other weights than {published} holds now; put those back")
    checkpoint = best_checkpoint(fold, settings.tasks[-1])
    network, _ = open_network(checkpoint, settings)
    encoder, decoder = network.encoder, network.decoder
    with fresh_folder(folder) as place:
        if isinstance(encoder, VisionTower):
            save_captioner(settings.decoder, encoder, decoder if isinstance(decoder, LargeDecoder) else None, place)
        else:
            assert isinstance(encoder, BackboneEncoder)
            backbone = encoder.backbone.to(memory_format=torch.contiguous_format)  # safetensors takes no other
            save_for_hf(backbone, str(place), safe_serialization=True)
    return checkpoint.name

"""Networks from the checkpoints that training left."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.data.vocabulary import Vocabulary
from src.models.captioner import Captioner, encoder_of, with_heads
from src.models.encoder import Encoder
from src.models.lora import merge_adapters
from src.pipeline.runs import best_checkpoint
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.feature_cache import cached_encoder


def open_network(
    path: Path, settings: Settings, features: Path | None = None, encoder: Encoder | None = None
) -> tuple[Captioner, dict[str, Any]]:
    """The network of a best-*.pt file in eval mode, its adapters merged, and the rest of the file's content.

    `settings` must be those it was trained with. features: the folder of the cached features that it will see in place
    of photos. encoder: that of another network of the run, shared where features are cached, since it is frozen then.
    Raises InputError where the file does not fit them.
    """
    content = checkpoint.load(path)
    scale, channels = content["scale"], settings.view.channels
    if not settings.adapts:
        # all weights come from the file, and with them the buffers that hold the pixels' mean and standard deviation
        settings = dataclasses.replace(
            settings, encoder=dataclasses.replace(settings.encoder, pretrained=False, weights=None)
        )
    statistics = (0.5,) * channels, (0.25,) * channels
    if encoder is None or not settings.encoder.cached:
        encoder = cached_encoder(features) if features else encoder_of(settings, channels, *statistics)
    network = with_heads(encoder, settings, len(content["words"]), (scale["low"], scale["high"], scale["mean"]))
    checkpoint.load_into(network, content["model"], path)
    merge_adapters(network)
    return network.eval(), content


def open_networks(
    paths: Sequence[Path], settings: Settings, features: Path | None = None, encoder: Encoder | None = None
) -> list[tuple[Captioner, dict[str, Any]]]:
    """What `open_network` returns for each of several files of one run; a shared encoder is built and held once."""
    opened: list[tuple[Captioner, dict[str, Any]]] = []
    for path in paths:
        opened.append(open_network(path, settings, features, encoder))
        encoder = opened[0][0].encoder
    return opened


def open_captioners(
    folders: list[Path], settings: Settings, features: Path | None = None, encoder: Encoder | None = None
) -> tuple[list[Captioner], Vocabulary]:
    """The networks of the best-caption.pt in each folder, and their common vocabulary; arguments as above.

    Raises InputError where their vocabularies differ.
    """
    opened = open_networks([best_checkpoint(folder, "caption") for folder in folders], settings, features, encoder)
    words = opened[0][1]["words"]
    if any(content["words"] != words for _, content in opened):
        raise InputError(f"{folders[0]} and its siblings have different vocabularies and cannot write together")
    return [network for network, _ in opened], Vocabulary.of(opened[0][1])


def best_fold(folders: Mapping[int, Path]) -> int:
    """The fold whose captions scored best on its own validation photos; the first of equals.

    folders: of each fold, with its metrics.csv.
    """

    def score(fold: int) -> float:
        with open(folders[fold] / "metrics.csv", encoding="utf-8", newline="") as file:
            return max((float(row.get("val_caption_score") or 0) for row in csv.DictReader(file)), default=0.0)

    return max(folders, key=score)

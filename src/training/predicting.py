"""From a fold's checkpoints to MOS and captions of any photos."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from src.data.batches import Labels
from src.data.vocabulary import Vocabulary
from src.decoding.constraints import Constraints
from src.decoding.search import beam
from src.models.captioner import Captioner, build
from src.settings import Settings
from src.training import checkpoint
from src.training.engine import infer
from src.training.parallel import Ranks, replicate


@dataclass(frozen=True)
class Prediction:
    """What the network says of one photo; None for a task that it did not learn."""

    mos: float | None
    caption: str | None


def open_network(path: Path, settings: Settings) -> tuple[Captioner, dict]:
    """The network of a best-*.pt file, in eval mode, and the file's other content.

    `settings` must be those it was trained with. Raises InputError where the file does not fit them.
    """
    portrait = checkpoint.load(path)
    scale, channels = portrait["scale"], 3 if settings.view.color == "rgb" else 1
    # all weights come from the file, and with them the buffers that hold the pixels' mean and spread
    encoder = dataclasses.replace(settings.encoder, pretrained=False, weights=None)
    network = build(
        dataclasses.replace(settings, encoder=encoder),
        channels,
        len(portrait["words"]),
        (scale["low"], scale["high"], scale["mean"]),
        (0.5,) * channels,
        (0.25,) * channels,
    )
    checkpoint.load_into(network, portrait["model"], path)
    return network.eval(), portrait


class _Scorer(torch.nn.Module):
    """Predicted MOS of a batch, the mirror image counted in where asked."""

    def __init__(self, network: Captioner, flips: bool):
        super().__init__()
        self.network, self.flips = network, flips

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mos = self.network.mos(self.network.features(pixels)).float()
        if self.flips:
            mos = (mos + self.network.mos(self.network.features(pixels.flip(2))).float()) / 2
        return mos


class _Writer(torch.nn.Module):
    """The best caption of a batch by beam search, padded to the longest allowed."""

    def __init__(self, network: Captioner, settings: Settings):
        super().__init__()
        self.network = network
        chosen = settings.decoding
        self.width, self.length_penalty = chosen.beam, chosen.length_penalty
        self.constraints = Constraints(chosen.minimum_words, chosen.maximum_words, chosen.no_repeat)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.network.features(pixels)
        found = beam(self.network.decoder, features, self.constraints, self.width, self.length_penalty)
        tokens = found.tokens[:, 0]
        return torch.nn.functional.pad(tokens, (0, self.constraints.maximum_words + 1 - tokens.shape[1]))


def predict_fold(
    folder: Path, settings: Settings, labels: Labels, rows: list[int], ranks: Ranks, label: str
) -> dict[int, Prediction]:
    """Predictions of the photos at `rows`, by row, computed by all processes and complete on each.

    MOS comes from best-mos.pt and the caption from best-caption.pt: the two peak at different epochs.
    """
    mos: dict[int, float] = {}
    captions: dict[int, str] = {}
    if settings.task != "caption":
        network, _ = open_network(folder / "best-mos.pt", settings)
        scorer = replicate(_Scorer(network, settings.predict.flips).to(ranks.device), settings, ranks)
        mos = infer(lambda batch: scorer(batch["pixels"]).tolist(), labels, rows, settings, ranks, f"{label} MOS")
    if settings.task != "mos":
        network, portrait = open_network(folder / "best-caption.pt", settings)
        writer = replicate(_Writer(network, settings).to(ranks.device), settings, ranks)
        tokens = infer(
            lambda batch: writer(batch["pixels"]).tolist(), labels, rows, settings, ranks, f"{label} captions"
        )
        words = Vocabulary(tuple(portrait["words"]), (0,) * len(portrait["words"]))
        captions = {row: words.decode(ids) for row, ids in tokens.items()}
    return {row: Prediction(mos.get(row), captions.get(row)) for row in rows}

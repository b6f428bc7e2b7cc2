"""From a fold's checkpoints to MOS and captions of any photos."""

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from src.base.errors import InputError
from src.data.dataset import Labels
from src.data.vocabulary import Vocabulary
from src.decoding.model_averaging import AveragedFeatures, ModelAverage
from src.decoding.strategy import CaptionSearch
from src.models.captioner import Captioner, build_captioner
from src.pipeline.runs import fold_folder
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.distributed import Ranks, replicate
from src.training.infer import infer


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
    network = build_captioner(
        dataclasses.replace(settings, encoder=encoder),
        channels,
        len(portrait["words"]),
        (scale["low"], scale["high"], scale["mean"]),
        (0.5,) * channels,
        (0.25,) * channels,
    )
    checkpoint.load_into(network, portrait["model"], path)
    return network.eval(), portrait


class MosPredictor(torch.nn.Module):
    """Predicted MOS of a batch: the mean over all scales, the mirror image counted in where asked.

    Raises InputError for scales besides 1 where the encoder sees photos of one size only.
    """

    def __init__(self, network: Captioner, flips: bool, scales: list[float]):
        super().__init__()
        if scales != [1.0] and network.encoder.fixed_input_size:
            raise InputError(f"predict.tta_scales={scales}: this encoder sees photos of one size only; leave it out")
        self.network, self.flips, self.scales = network, flips, scales

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        seen = [self._seen(images if scale == 1 else resized(images, scale)) for scale in self.scales]
        return seen[0] if len(seen) == 1 else torch.stack(seen).mean(0)

    def _seen(self, images: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        mos = self.network.mos(self.network.features(images)).float()
        if self.flips:
            mos = (mos + self.network.mos(self.network.features(images.flip(2))).float()) / 2
        return mos


def resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Photos [B, H, W, C] at another size, float on the scale 0 to 255; what is made smaller is smoothed first."""
    size = [round(side * scale) for side in images.shape[1:3]]
    planes = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1)


class CaptionWriter(torch.nn.Module):
    """The best caption of a batch by the search of the settings, padded to the longest allowed.

    Several networks write one caption together, by the mean of what they think of each next word.
    """

    def __init__(self, networks: list[Captioner], settings: Settings, words: list[str]):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        self.search, self.seed, self.mean = (
            CaptionSearch(settings.decoding, words),
            settings.run.seed,
            settings.decoding.model_averaging,
        )

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        decoder, features = self.networks[0].decoder, self.networks[0].features(images)
        if len(self.networks) > 1:
            decoder = ModelAverage([network.decoder for network in self.networks], self.mean)
            features = AveragedFeatures((features, *(network.features(images) for network in self.networks[1:])))
        tokens = self.search(decoder, features, rows.tolist(), self.seed).tokens[:, 0]
        return torch.nn.functional.pad(tokens, (0, self.search.constraints.maximum_words + 1 - tokens.shape[1]))


def open_captioners(folders: list[Path], settings: Settings) -> tuple[list[Captioner], list[str]]:
    """The networks of the best-caption.pt of all folders, and their words.

    Raises InputError where they have not one vocabulary.
    """
    opened = [open_network(folder / "best-caption.pt", settings) for folder in folders]
    words = opened[0][1]["words"]
    if any(portrait["words"] != words for _, portrait in opened):
        raise InputError(f"{folders[0]} and its siblings have different vocabularies and cannot write together")
    return [network for network, _ in opened], words


def best_fold(folder: Path, folds: list[int]) -> int:
    """The fold of a run whose captions scored best on its own validation photos; the first where none was scored."""

    def score(number: int) -> float:
        with open(fold_folder(folder, number) / "metrics.csv", encoding="utf-8", newline="") as file:
            return max((float(row.get("val_caption_score") or 0) for row in csv.DictReader(file)), default=0.0)

    return max(folds, key=score)


def write_captions_of(
    folders: list[Path], settings: Settings, labels: Labels, rows: list[int], ranks: Ranks, label: str
) -> dict[int, str]:
    """The captions of the photos at `rows`, by row, that the best captioners of all the folders write together."""
    networks, words = open_captioners(folders, settings)
    writer = replicate(CaptionWriter(networks, settings, words).to(ranks.device), settings, ranks)
    tokens = infer(lambda b: writer(b["images"], b["row"]).tolist(), labels, rows, settings, ranks, f"{label} captions")
    vocabulary = Vocabulary(tuple(words), (0,) * len(words))
    return {row: vocabulary.decode(ids) for row, ids in tokens.items()}


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
        flips = settings.predict.tta_flips and labels.features is None  # cached features are of the photos as they are
        scorer = replicate(MosPredictor(network, flips, settings.predict.tta_scales).to(ranks.device), settings, ranks)
        read = lambda batch: scorer(batch["images"]).tolist()  # noqa: E731
        pieces = [
            infer(read, labels, rows, settings, ranks, f"{label} MOS", crop=crop) for crop in range(settings.view.crops)
        ]
        mos = {row: sum(piece[row] for piece in pieces) / len(pieces) for row in rows}
    if settings.task != "mos":
        captions = write_captions_of([folder], settings, labels, rows, ranks, label)
    return {row: Prediction(mos.get(row), captions.get(row)) for row in rows}

"""What is logged of a fold's training: origin, metrics, times, sizes, TensorBoard, progress bar and a line an epoch."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from src.base.csv_files import write_csv
from src.base.files import write_json
from src.base.provenance import provenance
from src.models.encoder import CachedEncoder
from src.models.packaged_weights import weights_origin
from src.pipeline.runs import settings_path
from src.settings.load import save
from src.settings.schema import Settings

PACKAGES = ["torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "albumentations", "pycocoevalcap"]


def write_origin(folder: Path, settings: Settings) -> None:
    """Write settings.yaml and provenance.json: what a fold is trained with, its published weights included."""
    save(settings, settings_path(folder))
    origin, packages = weights_origin(settings.encoder), PACKAGES
    if settings.decoder.weights:
        origin, packages = {settings.decoder.name: settings.decoder.weights}, [*PACKAGES, "transformers"]
    packages = [*packages, "bitsandbytes"] if settings.optim.name == "adamw8bit" else packages
    write_json(folder / "provenance.json", provenance(version, packages) | {"weights": origin})


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write metrics.csv, a row per epoch; what an epoch lacks is empty. No times: equal runs give equal files."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, [[row.get(name, "") for name in columns] for row in rows])


def append_timing(path: Path, epoch: int, seconds: float, pace: dict[str, float]) -> None:
    """Add an epoch's times to timing.csv, which a resumed run continues.

    pace: training photos per second, and the share of the training time in which the loader was waited for.
    """
    new = not path.exists() or not path.stat().st_size
    with open(path, "a", encoding="utf-8") as file:
        if new:
            file.write("epoch,seconds,photos_per_second,waited\n")
        file.write(f"{epoch},{seconds:.3f},{pace['photos_per_second']:.2f},{pace['waited']:.4f}\n")


def write_parameters(path: Path, network: nn.Module) -> None:
    """Write how many parameters a network has (`total`) and how many of them are learned (`trainable`)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    cached = sum(part.shape.parameters for part in network.children() if isinstance(part, CachedEncoder))
    learned = sum(size for size, trained in sizes if trained)
    write_json(path, {"total": cached + sum(size for size, _ in sizes), "trainable": learned})


def tensorboard(folder: Path, epochs_done: int) -> Any:
    """A TensorBoard writer; it hides what an interrupted run had logged past `epochs_done`."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(str(folder), purge_step=epochs_done + 1)


def epoch_line(row: dict, epochs: int, seconds: float) -> str:
    """An epoch's losses and scores in one line."""
    shown = [f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float) and name != "lr"]
    return f"epoch {row['epoch']}/{epochs}  {'  '.join(shown)}  {seconds:.1f} s"


def progress(total: int, done: int, label: str, shown: bool) -> tqdm:
    """A progress bar over photos, where a terminal can show it."""
    disable = None if shown else True  # None: only where the output is no terminal
    return tqdm(total=total, initial=done, desc=label, unit="photo", leave=False, disable=disable, mininterval=0.5)

"""What a fold's training tells: metrics.csv, TensorBoard, the progress bar and one line an epoch."""

import csv
import io
from pathlib import Path

from torch import nn
from tqdm import tqdm

from src.base.files import write_json, write_text


def write_metrics(path: Path, rows: list[dict]) -> None:
    """Write metrics.csv, one row per epoch. It holds no times, so that equal runs give equal files.

    A column that some epochs lack (a loss, a reward) is empty there.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_timing(path: Path, epoch: int, seconds: float, pace: dict[str, float]) -> None:
    """Add an epoch's times to timing.csv, which a resumed run continues.

    pace: training photos per second, and the share of the training time in which the loader was waited for.
    """
    new = not path.exists()
    with open(path, "a", encoding="utf-8") as file:
        if new:
            file.write("epoch,seconds,photos_per_second,waited\n")
        file.write(f"{epoch},{seconds:.3f},{pace['photos_per_second']:.2f},{pace['waited']:.4f}\n")


def write_parameters(path: Path, network: nn.Module) -> None:
    """Write how many numbers the network is made of (`total`) and learns (`trainable`); buffers do not count."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    write_json(path, {"total": sum(n for n, _ in sizes), "trainable": sum(n for n, learned in sizes if learned)})


def tensorboard(folder: Path, epochs_done: int):
    """A TensorBoard log; a resumed run hides what an interrupted one had logged past `epochs_done`."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs_done + 1)


def epoch_line(row: dict, epochs: int, seconds: float) -> str:
    """One line an epoch: what was lost, what was scored."""
    shown = [f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float) and name != "lr"]
    return f"epoch {row['epoch']}/{epochs}  {'  '.join(shown)}  {seconds:.1f} s"


def progress(total: int, done: int, label: str, shown: bool) -> tqdm:
    """A bar over an epoch's photos, with photos per second and the time left, where a terminal can show it."""
    hidden = None if shown else True
    return tqdm(total=total, initial=done, desc=label, unit="photo", leave=False, disable=hidden, mininterval=0.5)

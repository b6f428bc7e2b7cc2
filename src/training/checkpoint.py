"""Checkpoints that are whole or absent, and that load without executing anything.

A file is one line of JSON (format and layout, SHA-256 of the rest), then what torch.save wrote of plain containers and
tensors. The layout is counted up where the names in it change, as those of a network's parameters do.
"""

import io
import json
from pathlib import Path
from typing import Any, NoReturn

import torch

from src.base.errors import InputError
from src.base.files import digest, write_bytes
from src.models.captioner import Captioner
from src.models.encoder import CachedEncoder
from src.models.lora import with_published

_FORMAT, LAYOUT = "photo-quality checkpoint", 4


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint. `state` holds tensors, numbers, strings, None, and lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    header = json.dumps({"format": f"{_FORMAT} {LAYOUT}", "sha256": digest(body)})
    write_bytes(path, header.encode() + b"\n" + body)


class _Parts(dict):
    """A checkpoint's content by name."""

    def __init__(self, path: Path, content: dict[str, Any]):
        super().__init__(content)
        self.path = path

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(f"{self.path} holds no {name}: it is another checkpoint; put its own back, or use --fresh")


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises InputError for one that is truncated, tampered with, foreign or of another
    layout.

    What it holds raises InputError, too, when asked for a part that it lacks.
    """
    content = path.read_bytes()
    header, _, body = content.partition(b"\n")
    try:
        described = json.loads(header)
        form, _, layout = described["format"].rpartition(" ")
        sha256 = described["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        form = layout = sha256 = ""
    if form == _FORMAT and layout.isdecimal() and int(layout) != LAYOUT:
        raise InputError(
            f"{path} is a checkpoint of layout {layout}, this program reads layout {LAYOUT}: train its fold with "
            "--fresh, or use the commit that wrote it (provenance.json beside it names it)"
        )
    if (form, layout) != (_FORMAT, str(LAYOUT)):
        raise InputError(f"{path} is not a checkpoint of this program; remove it, or train its fold with --fresh")
    if digest(body) != sha256:
        raise InputError(f"{path} is truncated or was changed after it was written; train its fold with --fresh")
    try:
        return _Parts(path, torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except Exception as error:  # whatever torch's reader makes of it: nothing of this program wrote it
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path} holds more than data ({reason}); remove it, or train its fold with --fresh") from None


def load_into(network: Captioner, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load what a best-*.pt file holds of a network; of an encoder whose features are cached nothing is needed.

    Raises InputError, naming the file, where it does not fit.
    """
    if isinstance(network.encoder, CachedEncoder):
        weights = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
        weights |= {f"encoder.{name}": value for name, value in network.encoder.state_dict().items()}
    try:
        network.load_state_dict(with_published(weights, network))
    except RuntimeError as error:
        reason = str(error).split("\n")[1:2] or [str(error)]
        raise InputError(f"{path} does not fit the network of these settings:{reason[0].strip()[:200]}") from None

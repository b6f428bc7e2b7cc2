"""Checkpoints that are whole or absent, and that load without executing anything.

A file is one line of JSON (format, SHA-256 of the rest), then what torch.save wrote of plain containers and tensors.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch

from src.errors import InputError
from src.files import digest, write_bytes

_FORMAT = "photo-quality checkpoint 1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint. `state` holds tensors, numbers, strings, None, and lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    header = json.dumps({"format": _FORMAT, "sha256": digest(body)})
    write_bytes(path, header.encode() + b"\n" + body)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises InputError for one that is truncated, tampered with or foreign."""
    content = path.read_bytes()
    header, _, body = content.partition(b"\n")
    try:
        described = json.loads(header)
        known = described["format"] == _FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path} is not a checkpoint of this program; remove it, or train its fold with --fresh")
    if digest(body) != described["sha256"]:
        raise InputError(f"{path} is truncated or was changed after it was written; train its fold with --fresh")
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def load_into(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights into a module. Raises InputError, naming the file, where they do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).split("\n")[1:2] or [str(error)]
        raise InputError(f"{path} does not fit the network of these settings:{reason[0].strip()[:200]}") from None

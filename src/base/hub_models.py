"""The model hub, and published captioners on it: where their files lie, and which of their tokens are ours."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import digest_of, file_digest
from src.base.text import one_line

MODEL_TYPES = {"blip": "blip", "blip2": "blip-2", "git": "git", "vit_gpt2": "vision-encoder-decoder"}
"""What a model's config.json calls each decoder.name."""
_DESCRIPTIONS = ("config.json", "tokenizer.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS, _INDEX = "*.safetensors", "model.safetensors.index.json"


def require_transformers(name: str) -> None:
    """Raise InputError where transformers is not installed. name: decoder.name."""
    if not find_spec("transformers"):
        raise InputError(
            f"decoder.name={name} needs transformers: .venv/bin/python -m pip install -r requirements-large.txt"
        )


@functools.cache
def model_folder(name: str, weights: str) -> Path:
    """The folder with the files of the captioner `weights`: a local folder, or of the hub's cache, filled where needed.

    name: decoder.name. Nothing in the files is executed. Raises InputError, in one line, where there is no such model,
    where it is not of that kind, or where a file that is needed is not among its own.
    """
    folder, what = described_folder(name, weights), f"decoder.weights={weights}"
    if not Path(weights).is_dir():
        folder = _fetched(what, weights, [_WEIGHTS, _INDEX], _has_weights)
    if not _has_weights(folder):
        raise InputError(
            f"{what}: {folder} holds no {_WEIGHTS}, or not all, and no other weights are read, which could execute "
            "code; save the model anew with transformers' save_pretrained"
        )
    return folder


@functools.cache
def described_folder(name: str, weights: str) -> Path:
    """The same, where no weights are needed."""
    require_transformers(name)
    what = f"decoder.weights={weights}"
    if Path(weights).is_dir():
        folder = Path(weights)
    else:
        folder = _fetched(what, weights, _DESCRIPTIONS, lambda folder: (folder / "tokenizer.json").is_file())
    config = _read(folder / "config.json", what)
    kind = config.get("model_type")
    if kind != MODEL_TYPES[name]:
        fitting = [each for each, model_type in MODEL_TYPES.items() if model_type == kind]
        hint = f"give decoder.name={fitting[0]}" if fitting else f"known are {', '.join(MODEL_TYPES.values())}"
        raise InputError(f"{what} is a model of type {kind}, not one for decoder.name={name}; {hint}")
    parts = {part: config.get(part, {}).get("model_type") for part in ("encoder", "decoder")}
    if name == "vit_gpt2" and parts != {"encoder": "vit", "decoder": "gpt2"}:
        raise InputError(
            f"{what} joins {parts['encoder']} and {parts['decoder']}; decoder.name=vit_gpt2 takes a vit and a gpt2"
        )
    text = config.get("text_config", {})
    kind = text.get("model_type")
    if name == "blip2" and (kind not in ("opt", "t5") or text.get("do_layer_norm_before") is False):
        raise InputError(f"{what} writes by {kind}; decoder.name=blip2 takes one by OPT, but opt-350m, or by Flan-T5")
    _read(folder / "tokenizer.json", what)
    return folder


def described_files(name: str, weights: str) -> list[Path]:
    """The files of the captioner that say how it reads photos and text: all texts but the index of its weights."""
    folder = described_folder(name, weights)
    return [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".txt") and file.name != _INDEX]


def _has_weights(folder: Path) -> bool:
    """Whether all its weights are there, which may lie in several files."""
    index = folder / _INDEX
    files = set(_read(index, str(folder))["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return all((folder / file).is_file() for file in files)


def _fetched(what: str, weights: str, wanted: Sequence[str], complete: Callable[[Path], bool]) -> Path:
    """The model's folder in the hub's cache, once the `wanted` files are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging, validate_repo_id

    try:
        validate_repo_id(weights)
    except ValueError:
        raise InputError(f"{what} is neither a folder nor a name on the hub, such as OWNER/NAME") from None
    try:
        folder = Path(snapshot_download(weights, local_files_only=True))
        if complete(folder):
            return folder
    except OSError:  # it is not in the cache
        pass
    print(f"fetching {weights}; it is kept for the next time", file=sys.stderr, flush=True)
    logging.set_verbosity_error()  # its retries say nothing that the line below does not
    try:
        ask_hub_once(weights, "config.json")
        return Path(snapshot_download(weights, allow_patterns=[*wanted]))
    except Exception as error:
        raise InputError(
            f"{what} is no folder here and could not be fetched ({one_line(str(error))[:160]}); this needs a network "
            "the first time: give a folder with the model's files"
        ) from None


def ask_hub_once(repository: str, file: str) -> None:
    """Raise the error of a hub that cannot be reached: a download would try for a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    with contextlib.suppress(HfHubHTTPError):  # it answers, and the download says what is wrong
        get_hf_file_metadata(hf_hub_url(repository, file))


def _read(file: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what}: {file.parent} holds no {file.name}; give the whole folder of the model") from None
    except ValueError as error:
        raise InputError(f"{file} is not readable JSON ({error}); get it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not what transformers writes; get it again")
    return content


def model_config(name: str, weights: str) -> Any:
    """Its configuration, as transformers reads it: defaults included."""
    folder = described_folder(name, weights)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(f"{folder / 'config.json'} is no configuration ({one_line(str(error))[:160]})") from None


def pixel_statistics(name: str, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that it was trained on, per channel on the scale 0 to 1."""
    folder = described_folder(name, weights)
    for file in (folder / name for name in _DESCRIPTIONS[2:] if (folder / name).is_file()):
        content = _read(file, f"decoder.weights={weights}")
        content = content.get("image_processor", content)
        if "image_mean" in content and "image_std" in content:
            return tuple(content["image_mean"]), tuple(content["image_std"])
    raise InputError(f"decoder.weights={weights}: {folder} holds no {_DESCRIPTIONS[2]} with image_mean and image_std")


def model_digest(name: str, weights: str, tokens_only: bool = False) -> str:
    """A hash of its files, or of those alone that captions are encoded by."""
    folder = (described_folder if tokens_only else model_folder)(name, weights)
    files = [folder / file for file in _DESCRIPTIONS[:2]]
    files += [] if tokens_only else [*(folder / file for file in _DESCRIPTIONS[2:]), *sorted(folder.glob(_WEIGHTS))]
    return digest_of({file.name: _digest(file, file.stat().st_mtime_ns) for file in files if file.is_file()})


@functools.cache
def _digest(file: Path, changed: int) -> str:
    blob = os.path.realpath(file)  # a large one in the hub's cache is a link to one that is named after its hash
    name = os.path.basename(blob)
    return name if os.path.basename(os.path.dirname(blob)) == "blobs" and len(name) == 64 else file_digest(file)


def special_tokens(name: str, weights: str) -> tuple[int, int, int, int]:
    """The ids that it has for PAD, START, END and UNK; equal ones where one token stands for several."""
    config = model_config(name, weights)
    if name in ("blip", "blip2"):
        text = config.text_config
        pad, start = text.pad_token_id, text.bos_token_id
        end = text.sep_token_id if name == "blip" else text.eos_token_id
        if text.model_type == "t5":  # its decoder starts with what it is padded with
            start = pad if getattr(text, "decoder_start_token_id", None) is None else text.decoder_start_token_id
    elif name == "git":
        pad, start, end = config.pad_token_id, config.bos_token_id, config.eos_token_id
    else:
        start = config.decoder_start_token_id
        end = config.decoder.eos_token_id if config.eos_token_id is None else config.eos_token_id
        pad = config.pad_token_id
    if start is None or end is None:
        raise InputError(f"decoder.weights={weights}: its config.json names no token to start or end a caption with")
    model = _read(described_folder(name, weights) / "tokenizer.json", f"decoder.weights={weights}").get("model", {})
    vocabulary, unknown = model.get("vocab", {}), model.get("unk_id")
    if isinstance(vocabulary, dict):  # not of a unigram model
        unknown = vocabulary.get(model.get("unk_token"))
    return end if pad is None else pad, start, end, end if unknown is None else unknown


def captioner_tokens(name: str, weights: str) -> tuple[str, tuple[int, int, int, int], int]:
    """The content of its tokenizer.json, its `special_tokens`, and the size of its vocabulary."""
    config = model_config(name, weights)
    text = {"git": config, "vit_gpt2": getattr(config, "decoder", None)}.get(name) or config.text_config
    tokenizer = (described_folder(name, weights) / "tokenizer.json").read_text(encoding="utf-8")
    return tokenizer, special_tokens(name, weights), text.vocab_size


def token_order(special: Sequence[int], size: int) -> list[int]:
    """The model's id of each of our tokens: those of PAD, START, END and UNK, then all others in their order.

    size: of the model's vocabulary.
    """
    return [*special, *(token for token in range(size) if token not in special)]

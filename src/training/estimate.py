"""What training takes, without training: memory and work of a step, on torch's meta device, which computes nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from src.base.errors import InputError
from src.base.text import one_line
from src.data.readers.registry import read_dataset
from src.data.table import for_training
from src.data.vocabulary import Vocabulary
from src.models.captioner import Captioner, build_captioner
from src.models.encoder import CachedEncoder, EncoderShape
from src.models.lora import add_adapters, keep_as_published, published_names
from src.pipeline.resolved import data_root
from src.settings.schema import Settings
from src.training.optimizer import STATE_BYTES, parameter_groups
from src.training.task import Scale, Task


@dataclass(frozen=True)
class Estimate:
    """Of training a fold. Counts of parameters, bytes in fp32, and floating-point operations.

    states: of the optimiser for a trained parameter. activations: what the backward pass of a micro-batch needs.
    photos: to train on in an epoch; None: not known yet.
    """

    trained: int
    frozen: int
    copied: int
    states: int
    activations: int
    operations: int
    photos: int | None

    @property
    def bytes(self) -> dict[str, int]:
        """Memory by what it is for."""
        return {
            "weights": 4 * (self.trained + self.frozen),
            "averaged copy": 4 * self.copied,
            "gradients": 4 * self.trained,
            "optimiser": self.states * self.trained,
            "activations": self.activations,
        }


def estimate(settings: Settings) -> Estimate:
    """The estimate for these settings. Only tables and configurations are read: no photo, no weights.

    Raises InputError where the networks cannot run on the meta device.
    """
    photos, captions = _labelled(settings)
    large = settings.decoder.weights is not None
    words = 10 if large or settings.task == "mos" else len(Vocabulary.build(captions, *_vocabulary(settings)))
    try:
        with torch.device("meta"):
            task = _task(settings, words)
            with _saved() as sizes, FlopCounterMode(display=False) as counter:
                _backward(task, settings)
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"train: --estimate cannot run encoder.name={settings.encoder.name} with decoder.name="
            f"{settings.decoder.name} without computing ({one_line(str(error))[:120]})"
        ) from None
    trained = sum(p.numel() for group in parameter_groups(task, settings.optim) for p in group["params"])
    parameters = dict(task.named_parameters())
    shared = published_names(task)
    return Estimate(
        trained,
        sum(p.numel() for p in parameters.values()) - trained,
        sum(p.numel() for name, p in parameters.items() if name not in shared),
        STATE_BYTES[settings.optim.name],
        sum(sizes.values()),
        settings.train.micro_batches * counter.get_total_flops(),
        photos,
    )


def _labelled(settings: Settings) -> tuple[int | None, list[str]]:
    """How many photos a fold is trained on, about, and all captions; None and none where there are no data yet."""
    try:
        table, _ = read_dataset(data_root(settings), settings.data.format)
    except InputError:
        return None, []
    table = table[for_training(table)]
    rated, captioned = table["mos"].notna().to_numpy(), table["captions"].map(bool).to_numpy()
    used = {"mos": rated, "caption": captioned, "both": rated | captioned}[settings.task]
    split = settings.split
    share = 1 - split.holdout if split.holdout else 1 - 1 / split.folds
    if split.official:
        used, share = used & (table["part"] == "train").to_numpy(), 1.0
    return round(share * int(np.sum(used))), table["captions"].explode().dropna().tolist()


def _vocabulary(settings: Settings) -> tuple[int, int | None]:
    return settings.vocabulary.minimum_count, settings.vocabulary.maximum_size


def _task(settings: Settings, words: int) -> Task:
    """The task as a fold trains it, on the meta device."""
    encoder, decoder, channels = settings.encoder, settings.decoder, settings.view.channels
    # adapters ask for published weights, of which nothing is read here
    unread = replace(encoder, pretrained=False, weights=None, lora_rank=0)
    plain = replace(settings, encoder=unread, decoder=replace(decoder, lora_rank=0))
    network = build_captioner(plain, channels, words, (0.0, 10.0, 5.0), (0.5,) * channels, (0.25,) * channels)
    part: Any = network.encoder
    if encoder.lora_rank:
        part.adapt(part.tower if encoder.own_tower else part.backbone, encoder.lora_rank, settings.view.size)
    elif encoder.frozen and decoder.lora_rank:
        keep_as_published(part.tower)
    if decoder.lora_rank and network.decoder is not None:
        add_adapters(network.decoder, decoder.lora_rank, "decoder.lora_rank")
    if settings.train.gradient_checkpointing:
        network.checkpoint_gradients()
    return Task(network, settings.loss, Scale(0.0, 10.0, 5.0, 1.0), settings.vocabulary.maximum_words)


def _backward(task: Task, settings: Settings) -> None:
    """A micro-batch forward and backward, each caption as long as it may be."""
    train, size = settings.train, settings.view.size
    photos, words = train.batch_size // train.micro_batches, settings.vocabulary.maximum_words
    images: Any = torch.zeros(photos, size, size, task.model.encoder.mean.shape[1], dtype=torch.uint8)
    if settings.encoder.cached:
        images = _cached(task.model, images, photos)
    captions = torch.ones(photos, train.captions_per_photo, words + 1, dtype=torch.long)
    uniforms = torch.zeros(*captions.shape[:2], task.uniforms_per_token * (words + 2))
    inputs = {"uniforms": uniforms} if task.uniforms_per_token else {}
    task.train()
    output = task(images, mos=torch.zeros(photos), captions=captions, **inputs)
    (task.total(output["losses"].sum(0), output["counts"].sum(0)) + task.penalty()).backward()


def _cached(network: Captioner, images: torch.Tensor, photos: int) -> dict[str, torch.Tensor]:
    """Cached features in place of photos: the encoder, which gives their shapes, is no part of the training."""
    with torch.no_grad():
        features = network.encoder(images[:1])
    network.encoder = CachedEncoder(EncoderShape.of(network.encoder))
    names = ("grid", "mask", "pooled", "levels", "stage")
    tensors = {name: getattr(features, name) for name in names}
    return {name: value.expand(photos, *value.shape[1:]) for name, value in tensors.items() if value is not None}


@contextlib.contextmanager
def _saved() -> Iterator[dict[int, int]]:
    """Bytes of what is kept for the backward pass by its storage, parameters and what they are views of apart."""
    kept: list[torch.Tensor] = []  # so that no storage takes another's place
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not (tensor.is_leaf and tensor.requires_grad) and not isinstance(tensor, torch.nn.Parameter):
            kept.append(tensor)
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def describe(estimate: Estimate, settings: Settings) -> list[str]:
    """The estimate in lines."""
    train, trained, frozen = settings.train, estimate.trained / 1e6, estimate.frozen / 1e6
    photos = train.batch_size // train.micro_batches
    each = f"{photos} photos" if settings.task == "mos" else (
        f"{photos} photos with {train.captions_per_photo} captions of {settings.vocabulary.maximum_words} tokens"
    )  # fmt: skip
    memory = [f"{name} {value / 2**30:.2f} GiB" for name, value in estimate.bytes.items()]
    half = "" if train.precision == "fp32" else f"; {train.precision} takes about half of the activations"
    steps = "as many as there are photos, which are not there yet"
    if estimate.photos is not None:
        count = -(-estimate.photos // train.batch_size)
        steps = f"{count:,} an epoch, {count * train.epochs:,} in {train.epochs} epochs of {estimate.photos:,} photos"
    return [
        f"parameters: {trained + frozen:.1f} M, of which {trained:.1f} M are trained and {frozen:.1f} M frozen",
        f"memory in fp32: {sum(estimate.bytes.values()) / 2**30:.2f} GiB ({', '.join(memory)}){half}",
        f"a micro-batch: {each}; {train.micro_batches} of them a step",
        f"a step: {estimate.operations / 1e12:.2f} TFLOP",
        f"steps: {steps}",
    ]

"""Published captioners of transformers, in two parts: a vision tower as the encoder, and a decoder."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.base.errors import InputError
from src.base.hub_models import described_files, model_config, model_folder, pixel_statistics, special_tokens
from src.base.text import one_line
from src.models.encoder import Encoder, trainable
from src.models.features import Features
from src.models.large_captioners import Blip, Blip2, Blip2T5, Git, VitGpt2
from src.models.large_decoders import LargeDecoder
from src.models.lora import add_adapters, keep_as_published
from src.settings.schema import DecoderSettings, EncoderSettings

_CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "blip2": "Blip2ForConditionalGeneration",
    "git": "GitForCausalLM",
    "vit_gpt2": "VisionEncoderDecoderModel",
}
_TOWERS = {"blip": "vision_model", "blip2": "vision_model", "git": "git.image_encoder", "vit_gpt2": "encoder"}


class VisionTower(Encoder):
    """The vision transformer of a published captioner.

    The grid is its output at the patches, `pooled` that at its class token.
    """

    fixed_input_size = True

    def __init__(
        self,
        tower: Any,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool,
        warning: str,
    ):
        """size: side of the photos in pixels that it takes."""
        super().__init__(3, mean, std, channels_last=False)
        self.tower, self._warning = tower, warning
        self._checkpointed: list[nn.Module] = []
        side = size // tower.config.patch_size
        self.width, self.layout = tower.config.hidden_size, (side, side)
        self.set_trainable(tower, frozen)

    @property
    def warning(self) -> str:
        return self._warning

    def forward(self, pixels: torch.Tensor) -> Features:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self.tower(pixel_values=self.normalised(pixels)).last_hidden_state.float()
        grid = tokens[:, 1:]
        mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
        return Features(grid, mask, self.layout, tokens[:, 0])

    def train(self, mode: bool = True) -> "VisionTower":
        """A frozen tower stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        for layer in self._checkpointed:
            layer.training = True  # else it would not checkpoint in self-critical training; dropout is inside its parts
        return self

    def checkpoint_gradients(self) -> bool:
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.tower.activation_checkpointing_enable()
        self._checkpointed = [part for part in self.tower.modules() if isinstance(part, GradientCheckpointingLayer)]
        self.train(self.training)
        return True

    def layers(self) -> list[list[nn.Parameter]]:
        """The embeddings, each layer, and the norms after them."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.tower.named_parameters():
            depth = next((int(part) for part in name.split(".") if part.isdecimal()), None)
            early = "embeddings" in name or "pre_" in name
            groups.setdefault(depth if depth is not None else -1 if early else math.inf, []).append(parameter)
        return trainable([groups[key] for key in sorted(groups)])


def build_tower(encoder: EncoderSettings, decoder: DecoderSettings, channels: int, size: int) -> VisionTower:
    """The vision tower of decoder.weights; with encoder.pretrained=false of random weights.

    Raises InputError, in one line, where the model cannot be had, or takes photos of another size.
    """
    name, weights = decoder.name, decoder.weights or ""
    config = model_config(name, weights)
    wanted = (config.encoder if name == "vit_gpt2" else config.vision_config).image_size
    if size != wanted:
        raise InputError(f"decoder.weights={weights} sees photos of {wanted} pixels; give view.size={wanted}")
    if channels != 3:
        raise InputError(f"decoder.weights={weights} sees photos in colour; give view.color=rgb")
    mean, std = pixel_statistics(name, weights)
    model = _model(decoder, encoder.pretrained)
    part = model.get_submodule(_TOWERS[name])
    if name == "vit_gpt2":
        part.pooler = None  # nothing depends on it
    warning = ""
    if encoder.frozen and not encoder.pretrained:
        warning = f"encoder.name={encoder.name} is frozen and has no weights, so its features are random"
    built = VisionTower(part, size, mean, std, encoder.frozen, warning)
    if encoder.lora_rank:
        built.adapt(part, encoder.lora_rank, size)
    elif encoder.frozen and decoder.lora_rank:
        keep_as_published(part)
    return built


def build_large_decoder(settings: DecoderSettings, pretrained: bool) -> LargeDecoder:
    """The text part of decoder.weights; not `pretrained`: of random weights. Raises InputError as `build_tower`."""
    decoder = _decoder(settings, _model(settings, pretrained))
    if settings.lora_rank:
        add_adapters(decoder, settings.lora_rank, "decoder.lora_rank")
    return decoder


def save_captioner(settings: DecoderSettings, encoder: VisionTower, decoder: LargeDecoder | None, folder: Path) -> None:
    """Write decoder.weights as save_pretrained does, with the weights of these parts of it, and its tokenizer.

    The parts have no adapters. decoder: None leaves the published text part as it is.
    """
    model = _model(settings, pretrained=True)
    tower = model.get_submodule(_TOWERS[settings.name])
    tower.load_state_dict(encoder.tower.state_dict(), strict=False)  # a pooler that nothing depends on is not ours
    if decoder is not None:
        _decoder(settings, model).load_state_dict(decoder.state_dict())  # its modules are the model's own
    model.save_pretrained(folder)
    for file in described_files(settings.name, settings.weights or ""):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _decoder(settings: DecoderSettings, model: Any) -> LargeDecoder:
    special = special_tokens(settings.name, settings.weights or "")
    if settings.name == "blip":
        return Blip(model.text_decoder, special)
    if settings.name == "blip2":
        return (Blip2T5 if model.config.text_config.model_type == "t5" else Blip2)(model, special)
    if settings.name == "git":
        return Git(model, special)
    return VitGpt2(model.decoder, getattr(model, "enc_to_dec_proj", None), special)


def _model(settings: DecoderSettings, pretrained: bool) -> Any:
    """The whole model in float32. Raises InputError where its weights are not those of its configuration."""
    name, weights = settings.name, settings.weights or ""
    config, folder = model_config(name, weights), model_folder(name, weights) if pretrained else None
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)  # what it warns of is raised below
    transformers.utils.logging.disable_progress_bar()
    kind: Any = getattr(transformers, _CLASSES[name])
    try:
        if folder is None:
            return kind(config)
        model, loaded = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are told of below
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(f"decoder.weights={weights} cannot be built: {one_line(str(error))[:200]}") from None
    missing = sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])})
    if missing:
        raise InputError(
            f"decoder.weights={weights}: {len(missing)} tensors are missing or of another shape (first: {missing[0]}); "
            "get the model again"
        )
    return model

"""Settings and values that have another name now, or are gone: told at the door, translated or left out silently in
what was saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.settings.keys import all_settings
from src.settings.yaml_files import read_yaml

FORMER_KEYS = {
    "predict.flips": "predict.tta_flips",
    "predict.scales": "predict.tta_scales",
    "predict.mos": "ensemble.mos",
    "ensemble.samples": "predict.samples",
    "decoding.no_repeat": "decoding.no_repeat_ngram_size",
    "decoding.groups": "decoding.beam_groups",
    "decoding.ensemble": "decoding.model_averaging",
    "train.ema": "train.ema_decay",
    "train.accumulate": "train.accumulation_steps",
    "optim.encoder_factor": "optim.encoder_lr_mult",
    "optim.clip": "optim.grad_clip_norm",
    "loss.quality": "loss.mos",
    "loss.quality_weight": "loss.mos_weight",
    "quality.dropout": "mos_head.dropout",
}
"""The present key of each former one."""
FORMER_VALUES = {
    "loss.mos": {"squared": "mse"},
    "ensemble.captions": {"consensus": "mbr"},
    "ensemble.mos": dict.fromkeys(("nonnegative", "nnls", "isotonic", "boosted"), "blend"),
    "self_critical.baseline": {"others": "leave_one_out"},
}
"""The present value of each former one, by the present key."""
REMOVED = {"ensemble.rewriting": "false"}
"""Settings that are gone, and the value that stands for what is done now, which a saved file may give."""


def present_name(key: str, text: str) -> str | None:
    """The setting that is meant, as one writes it now, where key or value is a former one."""
    now = FORMER_KEYS.get(key, key)
    value = FORMER_VALUES.get(now, {}).get(text, text)
    return f"{now}={value}" if (now, value) != (key, text) else None


def translated(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, as an earlier version of this program saved them, with their present names and values.

    What a former key says counts more than what stands under its present key, which then meant something else.
    """
    values = {key: value for key, value in saved.items() if key not in FORMER_KEYS}
    values |= {now: saved[key] for key, now in FORMER_KEYS.items() if key in saved}
    for key, names in FORMER_VALUES.items():
        if isinstance(values.get(key), str):
            values[key] = names.get(values[key], values[key])
    return {key: value for key, value in values.items() if key not in REMOVED}


def read_saved(path: Path) -> dict[str, str]:
    """The settings in a run's file as text by dotted key, whichever version wrote it; those that are gone left out."""
    return {key: text for key, text in translated(dict(read_yaml(str(path)))).items() if key in all_settings()}

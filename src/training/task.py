"""The model with its losses, as one module, so that DataParallel and DDP wrap a single forward."""

from dataclasses import dataclass

import torch
from torch import nn

from src.decoding.constraints import Constraints
from src.decoding.search import greedy
from src.models.captioner import Captioner
from src.models.decoder import PAD
from src.settings import Loss
from src.training.losses import caption_loss, quality_loss


@dataclass(frozen=True)
class Scale:
    """The training labels: least, greatest and mean MOS, and their standard deviation."""

    low: float
    high: float
    mean: float
    spread: float


class Task(nn.Module):
    """A captioner with the losses of its one or two tasks.

    `forward` returns tensors of one row per photo, so that what DataParallel gathers from its replicas is what one
    device would have returned.
    """

    def __init__(self, model: Captioner, loss: Loss, scale: Scale, maximum_words: int):
        super().__init__()
        self.model = model
        self.loss = loss
        self.scale = scale
        self.constraints = Constraints(minimum_words=1, maximum_words=maximum_words)
        self.log_variance = nn.Parameter(torch.zeros(2)) if loss.balance == "uncertainty" else None

    def forward(self, pixels: torch.Tensor, mos: torch.Tensor, captions: torch.Tensor, mode: str = "loss") -> dict:
        """Losses, or predictions, of a batch.

        pixels uint8 [B, H, W, C], mos float32 [B] (NaN: unknown), captions int64 [B, S, T].
        mode "loss": mos [B], mos_loss [B], mos_count [B], caption_loss [B], caption_tokens [B].
        mode "decode": mos [B] and greedy free-running tokens [B, maximum words + 1], labels unused.
        """
        features = self.model.features(pixels)
        predicted = self.model.mos(features) if self.model.quality is not None else mos.new_zeros(len(mos))
        if mode == "decode":
            return {"mos": predicted, "tokens": self._decode(features)}
        out = {"mos": predicted, "caption_loss": torch.zeros_like(predicted)}
        out["mos_loss"] = torch.zeros_like(predicted)
        if self.model.quality is not None:
            out["mos_loss"] = quality_loss(predicted, mos, self.scale.spread, self.loss.quality)
        if self.model.decoder is not None:
            out["caption_loss"] = self._caption_loss(features, captions)
        counts = self.counts(mos, captions)
        return out | {"mos_count": counts[:, 0], "caption_tokens": counts[:, 1]}

    def counts(self, mos: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """How many labels and how many caption tokens each photo has: float32 [B, 2], 0 for a task not learned."""
        known = (~mos.isnan()).float() * (self.model.quality is not None)
        tokens = (captions != PAD).sum((1, 2)).float() * (self.model.decoder is not None)
        return torch.stack([known, tokens], 1)

    def total(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The loss to descend: each task's summed loss [2] over its count [2], weighed and added.

        balance "uncertainty": exp(-s) loss + s / 2 with a learned s for each task (Kendall, Gal and Cipolla 2018).
        """
        means = sums / counts.clamp(min=1)
        if self.log_variance is None:
            return means @ means.new_tensor([self.loss.quality_weight, self.loss.caption_weight])
        return (torch.exp(-self.log_variance) * means * self._learned()).sum()

    def penalty(self) -> torch.Tensor | float:
        """The part of the loss that belongs to the step, not to any photo."""
        return 0.0 if self.log_variance is None else (self.log_variance * self._learned()).sum() / 2

    def _learned(self) -> torch.Tensor:
        return self.log_variance.new_tensor([self.model.quality is not None, self.model.decoder is not None])

    def _caption_loss(self, features, captions: torch.Tensor) -> torch.Tensor:
        if self.loss.label_smoothing:
            log_probs = self.model.caption_distribution(features, captions)
        else:
            log_probs = self.model.caption_log_probs(features, captions)
        return caption_loss(log_probs, captions, self.loss.label_smoothing)

    def _decode(self, features) -> torch.Tensor:
        width = self.constraints.maximum_words + 1
        if self.model.decoder is None:
            return torch.full((len(features), 1), PAD, device=features.device)
        tokens = greedy(self.model.decoder, features, self.constraints).tokens[:, 0]
        return nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=PAD)

"""The model with its losses, as one module, so that DataParallel and DDP wrap a single forward."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from src.decoding.beam import Candidates, greedy
from src.decoding.constraints import Constraints
from src.decoding.mask_predict_search import mask_predict
from src.decoding.sampling import sample
from src.models.captioner import Captioner
from src.models.decoder import PAD, NonAutoregressiveDecoder, TeacherForced, shift_right, token_log_probs
from src.models.features import Features
from src.models.mos_head import DistributionHead
from src.settings.schema import LossSettings
from src.training.losses import attention_loss, caption_loss, distribution_loss, mos_loss
from src.training.masked_losses import masked_counts, masked_losses, with_visible_words


@dataclass(frozen=True)
class Scale:
    """The training labels: least, greatest and mean MOS, and their standard deviation."""

    low: float
    high: float
    mean: float
    spread: float


class Task(nn.Module):
    """A captioner with the losses of its one or two tasks.

    `terms` names the losses: "mos", "caption", "attention" where that is weighed, and "length" of a non-autoregressive captioner,
    which writes in `passes` passes. `forward` returns tensors of one row per photo, so that what DataParallel gathers
    from its replicas is what one device would have returned: losses and counts are columns of one tensor each, not
    named tensors, so that a loss more is no change to the engine. `own_words` is the probability with which a word fed
    to the captioner is its own (scheduled sampling).
    """

    def __init__(self, model: Captioner, loss: LossSettings, scale: Scale, maximum_words: int, passes: int = 1):
        super().__init__()
        self.model = model
        self.loss = loss
        self.scale = scale
        self.constraints = Constraints(minimum_words=1, maximum_words=maximum_words)
        self.passes = passes
        self.non_autoregressive = isinstance(model.decoder, NonAutoregressiveDecoder)
        self.terms = ("mos", "caption")
        if self.non_autoregressive or loss.attention_weight:
            self.terms += ("length",) if self.non_autoregressive else ("attention",)
        self.own_words = 0.0
        self.log_variance = nn.Parameter(torch.zeros(2)) if loss.balance == "uncertainty" else None

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor], mode: str = "loss", **given) -> Any:
        """One of the modes below, for a batch: the one door, since it is what DataParallel and DDP replicate.

        images: uint8 [B, H, W, C], or cached features (see Captioner.features).
        """
        modes = {"loss": self.losses, "score": self.score, "decode": self.decode, "visible": self.visible,
                 "sample": self.sample}  # fmt: skip
        return modes[mode](self.model.features(images), **given)

    def losses(
        self,
        features: Features,
        mos: torch.Tensor,
        captions: torch.Tensor,
        advantages: torch.Tensor | None = None,
        uniforms: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """mos [B] as predicted, losses [B, L] and counts [B, L], their columns as in `terms`.

        mos: float32 [B] (NaN: unknown); captions: int64 [B, S, T]. advantages: float32 [B, S], for self-critical
        training: what each caption's log-probability is multiplied with. uniforms: float32 [B, S, R], for a non-autoregressive
        captioner: what is hidden (see Batches).
        """
        predicted, loss = self._quality(features, mos)
        losses = [loss, *(torch.zeros_like(predicted) for _ in self.terms[1:])]
        if self.model.decoder is not None:
            losses[1:] = self._caption_losses(features, captions, advantages, uniforms)
        return {"mos": predicted, "losses": torch.stack(losses, 1), "counts": self.counts(mos, captions, uniforms)}

    @property
    def uniforms_per_token(self) -> int:
        """Random numbers that a batch must bring (see Batches)."""
        return self.model.decoder.uniforms_per_token if self.non_autoregressive else 0

    @torch.no_grad()
    def score(self, features: Features) -> torch.Tensor:
        """Predicted MOS [B]: the numbers that `losses` would return, dropout of equal seeds included."""
        return self._predicted(features)

    @torch.no_grad()
    def decode(self, features: Features) -> dict[str, torch.Tensor]:
        """Predicted mos [B] and free-running tokens [B, maximum words + 1], the most probable ones."""
        tokens = torch.full((len(features), 1), PAD, device=features.device)
        if self.non_autoregressive:
            tokens = self._padded(mask_predict(self.model.decoder, features, self.constraints, self.passes))[:, 0]
        elif self.model.decoder is not None:
            tokens = self._padded(greedy(self.model.decoder, features, self.constraints))[:, 0]
        return {"mos": self._predicted(features), "tokens": tokens}

    @torch.no_grad()
    def visible(self, features: Features, captions: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """The first caption of each photo, what training hides of it said by a non-autoregressive captioner: [B, words + 1].

        captions: int64 [B, S, T]; uniforms: float32 [B, S, R].
        """
        width = self.constraints.maximum_words + 1
        return with_visible_words(self.model.decoder, features, captions[:, 0], uniforms[:, 0], width)

    @torch.no_grad()
    def sample(self, features: Features, uniforms: torch.Tensor, temperature: float, with_greedy: bool) -> torch.Tensor:
        """Random captions [B, S, maximum words + 1] from random numbers [B, S, T]; the greedy one after them."""
        drawn = self._padded(sample(self.model.decoder, features, self.constraints, uniforms, temperature))
        if not with_greedy:
            return drawn
        return torch.cat([drawn, self._padded(greedy(self.model.decoder, features, self.constraints))], dim=1)

    def counts(self, mos: torch.Tensor, captions: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """By what each photo's losses count: labels, tokens, captions. float32 [B, L], 0 for a task not learned.

        The tokens of a non-autoregressive captioner are the hidden words.
        """
        words = captions != PAD
        tokens = words.sum((1, 2))
        if self.non_autoregressive:
            hidden = masked_counts(self.model.decoder, captions.flatten(0, 1), uniforms.flatten(0, 1))
            tokens = hidden.unflatten(0, captions.shape[:2]).sum(1)
        columns = [~mos.isnan(), tokens, words.any(2).sum(1)][: len(self.terms)]
        learned = [self.model.mos_head is not None] + [self.model.decoder is not None] * (len(self.terms) - 1)
        return torch.stack([column.float() * known for column, known in zip(columns, learned, strict=True)], 1)

    def total(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The loss to descend: each summed loss [L] over its count [L], weighed and added.

        balance "uncertainty": exp(-s) loss + s / 2 with a learned s for each task (Kendall, Gal and Cipolla 2018).
        """
        means = sums / counts.clamp(min=1)
        extra = means[2:].sum() * (self.loss.length_weight if self.non_autoregressive else self.loss.attention_weight)
        if self.log_variance is None:
            return means[:2] @ means.new_tensor([self.loss.mos_weight, self.loss.caption_weight]) + extra
        return (torch.exp(-self.log_variance) * means[:2] * self._learned()).sum() + extra

    def penalty(self) -> torch.Tensor | float:
        """The part of the loss that belongs to the step, not to any photo."""
        return 0.0 if self.log_variance is None else (self.log_variance * self._learned()).sum() / 2

    def _learned(self) -> torch.Tensor:
        return self.log_variance.new_tensor([self.model.mos_head is not None, self.model.decoder is not None])

    def _predicted(self, features: Features) -> torch.Tensor:
        if self.model.mos_head is None:
            return torch.zeros(len(features), device=features.device)
        return self.model.mos(features)

    def _quality(self, features: Features, mos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The predicted MOS [B] and its loss [B]."""
        head = self.model.mos_head
        if isinstance(head, DistributionHead):
            shares = head.probabilities(features.pooled)
            return head.expected_mos(shares), distribution_loss(shares, mos, head.bins[0])
        predicted = self._predicted(features)
        kind = "none" if head is None else self.loss.mos
        return predicted, mos_loss(predicted, mos, self.scale.spread, kind)

    def _caption_losses(
        self,
        features: Features,
        captions: torch.Tensor,
        advantages: torch.Tensor | None,
        uniforms: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """The losses after the first of `terms`, each [B]."""
        flat, several = captions.flatten(0, 1), captions.shape[:2]
        features = features.repeat(captions.shape[1])
        if self.non_autoregressive:
            smoothing = self.loss.label_smoothing
            losses = masked_losses(self.model.decoder, features, flat, uniforms.flatten(0, 1), smoothing)
            return [loss.unflatten(0, several).sum(1) for loss in losses]
        inputs = shift_right(flat)
        if self.own_words and advantages is None:
            inputs = self._mixed(features, inputs)
        said = self.model.decoder.teacher_forced(features, inputs)
        smoothing = self.loss.label_smoothing if advantages is None else 0.0
        losses = [self._cross_entropy(said, flat, smoothing).unflatten(0, several)]
        if "attention" in self.terms:
            losses.append(attention_loss(said.attention, flat, features.mask).unflatten(0, several))
        if advantages is not None:
            losses[0] = losses[0] * advantages
        return [loss.sum(1) for loss in losses]

    def _cross_entropy(self, said: TeacherForced, captions: torch.Tensor, smoothing: float) -> torch.Tensor:
        if not smoothing:
            return -token_log_probs(said.logits, captions).sum(1)
        return caption_loss(torch.log_softmax(said.logits.float(), -1), captions, smoothing)

    def _mixed(self, features: Features, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [N, T] of which some are the model's own words.

        Scheduled sampling (Bengio et al. 2015) in two passes (Mihaylova and Martins 2019): the words of the first are
        drawn at all places at once, so that it costs the same for every decoder.
        """
        with torch.no_grad():
            probabilities = self.model.decoder.teacher_forced(features, inputs).logits[:, :-1].float().softmax(-1)
            own = torch.multinomial(probabilities.flatten(0, 1), 1).view(len(inputs), -1)
        replaced = torch.rand(own.shape, device=own.device) < self.own_words
        later = inputs[:, 1:]
        return torch.cat([inputs[:, :1], torch.where(replaced & (later != PAD), own, later)], dim=1)

    def _padded(self, found: Candidates) -> torch.Tensor:
        room = self.constraints.maximum_words + 1 - found.tokens.shape[2]
        return nn.functional.pad(found.tokens, (0, room), value=PAD)

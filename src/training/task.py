"""The network with its losses, as one module, so that DataParallel and DDP wrap a single forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from src.decoding.beam import greedy
from src.decoding.candidates import Candidates
from src.decoding.constraints import Constraints
from src.decoding.mask_predict_search import mask_predict
from src.decoding.sampling import sample
from src.models.captioner import Captioner
from src.models.decoder import PAD, CausalDecoder, NonAutoregressiveDecoder, TeacherForced, shift_right
from src.models.features import Features
from src.models.mos_head import DistributionHead
from src.settings.schema import LossSettings
from src.training.losses import attention_loss, distribution_loss, mos_loss, token_losses
from src.training.masked_losses import fill_masked, masked_counts, masked_losses


@dataclass(frozen=True)
class Scale:
    """The training labels: lowest, highest and mean MOS, and their standard deviation."""

    low: float
    high: float
    mean: float
    std: float


class Task(nn.Module):
    """A captioner with the losses of its one or two tasks.

    `terms` names the losses: "mos", "caption", "attention" where that has a weight, and "length" of a
    non-autoregressive captioner, which decodes in `passes` passes. `forward` returns tensors of one row per photo, so
    that what DataParallel gathers from its replicas is what one device would have returned: losses and counts are
    columns of one tensor each, not named tensors, so that one more loss does not change the engine.
    `sampling_probability`: that of replacing an input token by a sampled one (scheduled sampling).
    """

    def __init__(self, model: Captioner, loss: LossSettings, scale: Scale, maximum_words: int, passes: int = 1):
        super().__init__()
        self.model = model
        self.loss = loss
        self.scale = scale
        self.constraints = Constraints(minimum_words=1, maximum_words=maximum_words)
        self.passes = passes
        self.non_autoregressive = isinstance(model.decoder, NonAutoregressiveDecoder)
        self.terms: tuple[str, ...] = ("mos", "caption")
        if self.non_autoregressive or loss.attention_weight:
            self.terms += ("length",) if self.non_autoregressive else ("attention",)
        self.sampling_probability = 0.0
        self.log_variance = nn.Parameter(torch.zeros(2)) if loss.balance == "uncertainty" else None

    def forward(self, images: torch.Tensor | dict[str, torch.Tensor], mode: str = "loss", **inputs: Any) -> Any:
        """Run one of the modes below on a batch. All go through here: forward is what DataParallel and DDP replicate.

        images: uint8 [B, H, W, C], or cached features (see Captioner.features).
        """
        modes: dict[str, Callable[..., Any]] = {
            "loss": self.losses,
            "score": self.score,
            "decode": self.decode,
            "fill_masked": self.fill_masked,
            "sample": self.sample,
        }
        return modes[mode](self.model.features(images), **inputs)

    def losses(
        self,
        features: Features,
        mos: torch.Tensor,
        captions: torch.Tensor,
        advantages: torch.Tensor | None = None,
        uniforms: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predicted mos [B], losses [B, L] and counts [B, L], with a column for each of `terms`.

        mos: float32 [B] (NaN: unknown). captions: int64 [B, S, T]. advantages: float32 [B, S], the factors of each
        caption's negative log-probability in self-critical training. uniforms: float32 [B, S, R], which decide the
        tokens that are masked for a non-autoregressive captioner (see BatchDataset).
        """
        predicted, loss = self._mos_loss(features, mos)
        losses = [loss]
        if self.model.decoder is None:
            losses += [torch.zeros_like(predicted) for _ in self.terms[1:]]
        elif self.non_autoregressive:
            losses += self._masked_losses(features, captions, uniforms)
        else:
            losses += self._teacher_forced_losses(features, captions, advantages)
        return {"mos": predicted, "losses": torch.stack(losses, 1), "counts": self.counts(mos, captions, uniforms)}

    @property
    def uniforms_per_token(self) -> int:
        """Random numbers per token that a batch must bring (see BatchDataset)."""
        return self._non_autoregressive.uniforms_per_token if self.non_autoregressive else 0

    @torch.no_grad()
    def score(self, features: Features) -> torch.Tensor:
        """Predicted MOS [B]: as `losses` would return it, dropout of equal seeds included."""
        return self._predicted_mos(features)

    @torch.no_grad()
    def decode(self, features: Features) -> dict[str, torch.Tensor]:
        """Predicted mos [B], and the tokens [B, maximum words + 1] of greedy search or mask-predict."""
        if self.model.decoder is None:
            tokens = torch.full((len(features), 1), PAD, device=features.device)
        elif self.non_autoregressive:
            tokens = self._padded(mask_predict(self._non_autoregressive, features, self.constraints, self.passes))[:, 0]
        else:
            tokens = self._padded(greedy(self._causal, features, self.constraints))[:, 0]
        return {"mos": self._predicted_mos(features), "tokens": tokens}

    @torch.no_grad()
    def fill_masked(self, features: Features, captions: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """The first caption of each photo, its masked tokens predicted: [B, maximum words + 1].

        captions: int64 [B, S, T]; uniforms: float32 [B, S, R].
        """
        width = self.constraints.maximum_words + 1
        return fill_masked(self._non_autoregressive, features, captions[:, 0], uniforms[:, 0], width)

    @torch.no_grad()
    def sample(self, features: Features, uniforms: torch.Tensor, temperature: float, with_greedy: bool) -> torch.Tensor:
        """Sampled captions [B, S, maximum words + 1] from uniforms [B, S, T]; last, where asked, the greedy one."""
        samples = self._padded(sample(self._causal, features, self.constraints, uniforms, temperature))
        if not with_greedy:
            return samples
        return torch.cat([samples, self._padded(greedy(self._causal, features, self.constraints))], dim=1)

    def counts(self, mos: torch.Tensor, captions: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """What each photo's losses are divided by, in sum: labels, tokens, captions. float32 [B, L], 0 for no task.

        The tokens of a non-autoregressive captioner are the masked ones.
        """
        tokens = (captions != PAD).sum((1, 2))
        if self.non_autoregressive:
            assert uniforms is not None
            masked = masked_counts(self._non_autoregressive, captions.flatten(0, 1), uniforms.flatten(0, 1))
            tokens = masked.unflatten(0, captions.shape[:2]).sum(1)
        columns = [~mos.isnan(), tokens, (captions != PAD).any(2).sum(1)][: len(self.terms)]
        learned = [self.model.mos_head is not None] + [self.model.decoder is not None] * (len(self.terms) - 1)
        return torch.stack([column.float() * learns for column, learns in zip(columns, learned, strict=True)], 1)

    def total(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The loss to minimise: each summed loss [L] over its count [L], weighted and added.

        balance "uncertainty": exp(-s) loss + s / 2 with a learned s for each task (Kendall, Gal and Cipolla 2018).
        """
        means = sums / counts.clamp(min=1)
        extra = means[2:].sum() * (self.loss.length_weight if self.non_autoregressive else self.loss.attention_weight)
        if self.log_variance is None:
            return means[0] * self.loss.mos_weight + means[1] * self.loss.caption_weight + extra
        return (torch.exp(-self.log_variance) * means[:2])[self._learned].sum() + extra

    def penalty(self) -> torch.Tensor | float:
        """The part of the loss that belongs to the step, not to any photo."""
        return 0.0 if self.log_variance is None else self.log_variance[self._learned].sum() / 2

    @property
    def _learned(self) -> slice:
        """Which of the first two terms are learned."""
        return slice(int(self.model.mos_head is None), 1 + (self.model.decoder is not None))

    @property
    def _causal(self) -> CausalDecoder:
        assert isinstance(self.model.decoder, CausalDecoder)
        return self.model.decoder

    @property
    def _non_autoregressive(self) -> NonAutoregressiveDecoder:
        assert isinstance(self.model.decoder, NonAutoregressiveDecoder)
        return self.model.decoder

    def _predicted_mos(self, features: Features) -> torch.Tensor:
        if self.model.mos_head is None:
            return torch.zeros(len(features), device=features.device)
        return self.model.mos(features)

    def _mos_loss(self, features: Features, mos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The predicted MOS [B] and its loss [B]."""
        head = self.model.mos_head
        if head is None:
            predicted = self._predicted_mos(features)
            return predicted, mos_loss(predicted, mos, self.scale.std, "none")
        inputs = self.model.mos_inputs(features, _rows_to_learn(~mos.isnan()))
        if isinstance(head, DistributionHead):
            probabilities = head.probabilities(inputs)
            return head.expected_mos(probabilities), distribution_loss(probabilities, mos, head.bins[0])
        predicted = head(inputs)
        return predicted, mos_loss(predicted, mos, self.scale.std, self.loss.mos)

    def _masked_losses(
        self, features: Features, captions: torch.Tensor, uniforms: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Caption and length loss of a non-autoregressive captioner, each [B]."""
        assert uniforms is not None
        features, flat = features.repeat(captions.shape[1]), captions.flatten(0, 1)
        smoothing = self.loss.label_smoothing
        losses = masked_losses(self._non_autoregressive, features, flat, uniforms.flatten(0, 1), smoothing)
        return [loss.unflatten(0, captions.shape[:2]).sum(1) for loss in losses]

    def _teacher_forced_losses(
        self, features: Features, captions: torch.Tensor, advantages: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Caption and, where it has a weight, attention loss of a causal captioner, each [B]."""
        flat, each = captions.flatten(0, 1), captions.shape[1]
        rows, photo, batch_sizes = _longest_first(flat), None, None
        if rows is not None:
            photos, photo = (rows // each).unique(return_inverse=True)
            features, flat = features.select(photos), flat[rows]
            batch_sizes = [len(rows), *filter(None, (flat[:, 1:] != PAD).sum(0).tolist())]
            flat = flat[:, : len(batch_sizes)]
        inputs = shift_right(flat)
        if self.sampling_probability and advantages is None:
            inputs = self._scheduled_sampling(features, inputs, photo)
        output = self._causal.teacher_forced(features, inputs, photo, batch_sizes)

        def by_photo(loss: torch.Tensor) -> torch.Tensor:
            if rows is not None:
                loss = loss.new_zeros(captions.shape[:2]).flatten().index_copy(0, rows, loss)
            return loss.view(-1, each)

        smoothing = self.loss.label_smoothing if advantages is None else 0.0
        losses = [by_photo(_caption_losses(output, flat, smoothing, padding=rows is None))]
        if advantages is not None:
            losses[0] = losses[0] * advantages
        if "attention" in self.terms:
            assert output.attention is not None
            mask = features.mask.repeat_interleave(each, 0) if photo is None else features.mask[photo]
            losses.append(by_photo(attention_loss(output.attention, flat, mask)))
        return [loss.sum(1) for loss in losses]

    def _scheduled_sampling(self, features: Features, inputs: torch.Tensor, photo: torch.Tensor | None) -> torch.Tensor:
        """Inputs [N, T], some tokens of which are replaced by samples from the model.

        Scheduled sampling (Bengio et al. 2015) in two passes (Mihaylova and Martins 2019): the samples of all places
        come from one teacher-forced pass, so that it costs the same for every decoder.
        """
        with torch.no_grad():
            probabilities = self._causal.teacher_forced(features, inputs, photo).logits[:, :-1].float().softmax(-1)
            # as torch.multinomial draws, which waits for the GPU to check its input
            sampled = (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)
        replaced = torch.rand(sampled.shape, device=sampled.device) < self.sampling_probability
        tokens = inputs[:, 1:]
        return torch.cat([inputs[:, :1], torch.where(replaced & (tokens != PAD), sampled, tokens)], dim=1)

    def _padded(self, candidates: Candidates) -> torch.Tensor:
        width = self.constraints.maximum_words + 1
        return nn.functional.pad(candidates.tokens, (0, width - candidates.tokens.shape[2]), value=PAD)


def _caption_losses(output: TeacherForced, captions: torch.Tensor, smoothing: float, padding: bool) -> torch.Tensor:
    """Cross entropy summed over each caption, float32 [N]; captions: int64 [N, T].

    padding: the output layer, most of the work where the vocabulary is large, is run at padding as well.
    """
    if padding:
        return token_losses(output.logits.float().log_softmax(-1), captions, smoothing).sum(1)
    words = captions != PAD
    losses = token_losses(output.logits_at(words).float().log_softmax(-1), captions[words], smoothing)
    return losses.new_zeros(captions.shape).masked_scatter(words, losses).sum(1)


def _rows_to_learn(labelled: torch.Tensor) -> torch.Tensor | None:
    """The rows that are labelled, bool [N], one at least: those without a label cost nothing.

    On a GPU None, for all rows: to count them would wait for it in every step.
    """
    if labelled.device.type != "cpu":
        return None
    rows = torch.arange(len(labelled))
    learned = rows[labelled]
    return learned if len(learned) else rows[:1]


def _longest_first(captions: torch.Tensor) -> torch.Tensor | None:
    """The rows of captions [N, T] that are not empty, one at least, by length, the longest first; None on a GPU."""
    tokens = (captions != PAD).sum(1)
    rows = _rows_to_learn(tokens > 0)
    return None if rows is None else rows[tokens[rows].argsort(descending=True, stable=True)]

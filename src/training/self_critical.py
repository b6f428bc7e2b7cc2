"""Self-critical training: captions that score better than a baseline become more probable.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning" (baseline: the greedy caption), and Luo 2020,
"A Better Variant of Self-Critical Sequence Training" (baseline: the mean reward of the photo's other samples).
"""

from collections.abc import Sequence

import torch
from torch import nn

from src.base.randomness import fold_in
from src.data.dataset import Labels
from src.decoding.sampling import uniforms_for
from src.metrics.reward import Reward, RewardWeights
from src.models.decoder import PAD
from src.settings.schema import Settings

STATISTICS = ("reward", "baseline", "advantage", "sample_words")


class SelfCritical:
    """Draws captions of a batch, rewards them, and says how much each is better than its baseline."""

    def __init__(self, settings: Settings, labels: Labels, train_rows, words: Sequence[str]):
        """words: the vocabulary, by token id."""
        chosen = settings.self_critical
        self.settings, self.seed, self.places = chosen, settings.run.seed, settings.vocabulary.maximum_words + 1
        weights = RewardWeights(
            chosen.cider_d, chosen.bleu3, chosen.bleu4, chosen.rouge_l, chosen.meteor, chosen.length_penalty
        )
        self.reward = Reward(labels.tokens, labels.caption_offsets, labels.photo_offsets, train_rows, weights, words)

    def __call__(self, sampler: nn.Module, batch: dict, step: int) -> tuple[dict, torch.Tensor]:
        """The batch with samples int64 [B, S, T] as its captions and `advantages` [B, S], and sums [5] over samples.

        sampler: the task, or its replicas. step: the optimiser step, from which the random numbers come, photo by
        photo. The sums are those of STATISTICS (of advantages the absolute values), and the number of samples.
        Photos without a reference have nothing to be rewarded for: their captions are empty.
        """
        rows, greedy = batch["row"].cpu().numpy(), self.settings.baseline == "greedy"
        samples = self.settings.samples
        uniforms = uniforms_for(fold_in(self.seed, "self-critical", step), rows, samples, self.places)
        was_training = sampler.training
        sampler.eval()
        found = sampler(
            batch["images"],
            mode="sample",
            uniforms=uniforms.to(batch["row"].device),
            temperature=self.settings.temperature,
            with_greedy=greedy,
        )
        sampler.train(was_training)
        known = (batch["captions"] != PAD).any(2).any(1)
        found = found.masked_fill(~known[:, None, None], PAD)
        flat = found.flatten(0, 1).cpu().numpy()
        rewards = torch.from_numpy(self.reward(rows.repeat(found.shape[1]), flat)).view(found.shape[:2])
        drawn, baseline = rewards[:, :samples], _baseline(rewards, samples, greedy)
        advantages = (drawn - baseline) * known.cpu()[:, None]
        captions = found[:, :samples]
        words = (captions != PAD).sum(2).clamp(min=1) - 1  # END is no word
        counted = known.cpu()[:, None].expand_as(drawn)
        sums = [drawn, baseline.expand_as(drawn), advantages.abs(), words.cpu()]
        sums = torch.stack([(each * counted).sum().double() for each in [*sums, torch.ones_like(drawn)]])
        device = batch["row"].device
        return {**batch, "captions": captions, "advantages": advantages.float().to(device)}, sums.to(device)


def _baseline(rewards: torch.Tensor, samples: int, greedy: bool) -> torch.Tensor:
    """What each sample is compared with: [B, 1] or [B, S]."""
    if greedy:
        return rewards[:, samples:]
    return (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)

"""Self-critical training: captions that score better than a baseline become more probable.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning" (baseline: the greedy caption), and Luo 2020,
"A Better Variant of Self-Critical Sequence Training" (baseline: the mean reward of the photo's other samples).
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from src.base.randomness import fold_in
from src.data.labels import EncodedCaptions, Labels
from src.data.vocabulary import Subwords, Vocabulary
from src.decoding.sampling import uniforms_for
from src.metrics.reward import Reward, RewardWeights
from src.models.decoder import END, PAD
from src.settings.schema import Settings

STATISTICS = ("reward", "baseline", "advantage", "sample_words")
"""What is averaged over samples and shown: of advantages the absolute value, of samples their words."""


class SelfCritical:
    """Samples captions of a batch, and computes their advantages: rewards less a baseline."""

    def __init__(self, settings: Settings, labels: Labels, train_rows: np.ndarray, vocabulary: Vocabulary):
        """vocabulary: of the captions, which are compared word by word also where it holds pieces of words."""
        self.settings, self.seed = settings.self_critical, settings.run.seed
        self.width = settings.vocabulary.maximum_words + 1
        weights = RewardWeights(
            self.settings.cider_d,
            self.settings.bleu3,
            self.settings.bleu4,
            self.settings.rouge_l,
            self.settings.meteor,
            self.settings.length_penalty,
        )
        self.vocabulary, self.words = vocabulary, vocabulary
        captions: Labels | EncodedCaptions = labels
        if isinstance(vocabulary, Subwords):
            texts = [
                [vocabulary.decode(ids.tolist()) for ids in labels.captions(row)] for row in range(len(labels.mos))
            ]
            self.words = Vocabulary.build(itertools.chain.from_iterable(texts))
            captions = EncodedCaptions.of(texts, self.words)
        encoded = captions.tokens, captions.caption_offsets, captions.photo_offsets
        self.reward = Reward(*encoded, train_rows, weights, self.words.words)

    def __call__(self, sampler: nn.Module, batch: dict[str, Any], step: int) -> tuple[dict[str, Any], torch.Tensor]:
        """The batch with samples int64 [B, S, T] as its captions and their `advantages` float32 [B, S]; and sums [5].

        sampler: the task, or its replicas. step: the optimiser step, from which each photo's random numbers come. The
        sums over samples are those of STATISTICS, and the number of samples. A photo without references gets no
        reward: its captions are empty.
        """
        # rewards are computed from words on the host, so that each step of this training waits for the GPU
        rows, device = batch["row"].cpu().numpy(), batch["row"].device
        samples, greedy = self.settings.samples, self.settings.baseline == "greedy"
        uniforms = uniforms_for(fold_in(self.seed, "self-critical", step), rows, samples, self.width)
        was_training = sampler.training
        sampler.eval()
        captions = sampler(
            batch["images"],
            mode="sample",
            uniforms=uniforms.to(device),
            temperature=self.settings.temperature,
            with_greedy=greedy,
        )
        sampler.train(was_training)
        captioned = (batch["captions"] != PAD).any(2).any(1)[:, None]
        captions = captions.masked_fill(~captioned[:, :, None], PAD)
        captions[:, :, self.width - 1 :] = PAD  # behind the longest caption END is no choice of the captioner's
        captioned = captioned.cpu()
        tokens = self._in_words(captions.flatten(0, 1).cpu().numpy())
        rewards = torch.from_numpy(self.reward(rows.repeat(captions.shape[1]), tokens)).view(captions.shape[:2])
        if greedy:
            baseline = rewards[:, samples:].expand(-1, samples)
        else:  # of each sample the mean reward of the photo's others
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        rewards, captions = rewards[:, :samples], captions[:, :samples]
        advantages = (rewards - baseline) * captioned
        words = ((captions != PAD) & (captions != END)).sum(2)
        statistics = [rewards, baseline, advantages.abs(), words.cpu(), torch.ones_like(rewards)]
        sums = torch.stack([(values * captioned).sum().double() for values in statistics])
        return {**batch, "captions": captions, "advantages": advantages.float().to(device)}, sums.to(device)

    def _in_words(self, captions: np.ndarray) -> np.ndarray:
        """Captions [N, T] as ids of words, padded: [N, T']."""
        if self.words is self.vocabulary:
            return captions
        empty = (captions != PAD).sum(1) == 0
        rows = [
            [] if nothing else self.words.encode(self.vocabulary.decode(ids))
            for ids, nothing in zip(captions.tolist(), empty, strict=True)
        ]
        padded = np.full((len(rows), max(map(len, rows), default=0) or 1), PAD, captions.dtype)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded

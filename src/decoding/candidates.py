"""What every search returns."""

from dataclasses import dataclass

import torch

from src.models.decoder import PAD


@dataclass(frozen=True)
class Candidates:
    """Up to K captions for each of B photos.

    `tokens` int64 [B, K, T]: words, END, then PAD. `log_prob` float32 [B, K]: sum over the words and END. Where a
    photo has fewer than K candidates the rest is PAD with log_prob -inf.
    """

    tokens: torch.Tensor
    log_prob: torch.Tensor

    def lengths(self) -> torch.Tensor:
        """Tokens of each candidate, END counted: int64 [B, K]."""
        return (self.tokens != PAD).sum(dim=2)

    def scores(self, length_penalty: float) -> torch.Tensor:
        """log_prob / length ** length_penalty, END counted in the length: float32 [B, K]."""
        return normalised(self.log_prob, self.lengths().clamp(min=1), length_penalty)

    def ranked(self, length_penalty: float) -> "Candidates":
        """The same candidates by descending score; ties keep their order."""
        order = self.scores(length_penalty).sort(dim=1, descending=True, stable=True).indices
        return Candidates(pick(self.tokens, order), self.log_prob.gather(1, order))


def normalised(log_prob: torch.Tensor, length: int | torch.Tensor, length_penalty: float) -> torch.Tensor:
    """log_prob / length ** length_penalty: 0 favours short captions, 1 ranks by the mean per token."""
    return log_prob / length**length_penalty


def pick(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Captions tokens [B, K, T] at index [B, R], photo by photo: [B, R, T]."""
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def trimmed(tokens: torch.Tensor) -> torch.Tensor:
    """tokens [B, K, T] without the positions at the end where every caption has PAD."""
    used = int((tokens != PAD).any(dim=0).any(dim=0).sum())
    return tokens[:, :, : max(used, 1)]

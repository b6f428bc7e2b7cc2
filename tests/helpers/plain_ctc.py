"""Random non-autoregressive decoders, and CTC by brute force: the sum over all alignments."""

import itertools
import math

import torch

from src.models.captioner import build_decoder
from src.models.decoder import END, PAD, UNK
from src.settings.schema import DecoderSettings
from tests.helpers.plain_decoding import VOCABULARY

NON_AUTOREGRESSIVE = ("mask_predict", "ctc_mask_predict")
_SMALL = {"hidden": 16, "heads": 2, "feedforward": 24, "layers": 2}


def random_decoder(name: str, seed: int = 0, vocabulary: int = VOCABULARY, **settings):
    """With weights far from their initial values, so that its predictions are not nearly uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_decoder(DecoderSettings(name=name, **_SMALL, **settings), vocabulary, 6).eval()
        for parameter in decoder.parameters():
            parameter.data += 0.25 * torch.randn_like(parameter)
        decoder.length[-1].bias.data[:1].clamp_(3, 6)
    return decoder


def captions(lengths: list[int], vocabulary: int = VOCABULARY) -> torch.Tensor:
    """Random captions of so many words."""
    tokens = torch.full((len(lengths), max(lengths) + 1), PAD)
    for row, words in enumerate(lengths):
        tokens[row, :words] = torch.randint(UNK, vocabulary, (words,))
        tokens[row, words : words + 1] = END
    return tokens


def uniforms(decoder, tokens: torch.Tensor) -> torch.Tensor:
    """The random numbers that `mask_tokens` needs."""
    return torch.rand(len(tokens), decoder.uniforms_per_token * (tokens.shape[1] + 1))


def collapsed(alignment, blank: int) -> tuple[int, ...]:
    """The caption of an alignment: repetitions merged, then blanks removed."""
    return tuple(token for token, _ in itertools.groupby(alignment) if token != blank)


def by_alignments(log_probs: torch.Tensor, blank: int, shown: dict[int, int]) -> dict[tuple[int, ...], float]:
    """The probability of every caption: the sum over all alignments [L] with the tokens `shown`, by position."""
    tokens, total = [*range(UNK, blank), blank], {}
    for alignment in itertools.product(tokens, repeat=len(log_probs)):
        if all(alignment[position] == token for position, token in shown.items()):
            masked = [log_probs[p, s].item() for p, s in enumerate(alignment) if p not in shown]
            words = collapsed(alignment, blank)
            total[words] = total.get(words, 0.0) + math.exp(sum(masked))
    return total


def random_emissions(count: int, positions: int, words: int) -> tuple[torch.Tensor, int]:
    """Log-probabilities [count, positions, V] with PAD, START and END impossible; the blank is the last token."""
    logits = 2 * torch.randn(count, positions, UNK + words + 1)
    logits[:, :, :UNK] = -1e4
    return logits.log_softmax(2), UNK + words

"""A masked language model of CTC alignments: a Transformer that predicts masked words and blanks.

Graves et al., "Connectionist Temporal Classification", ICML 2006, on an upsampled target sequence as in Libovický and
Helcl, "End-to-End Non-Autoregressive Neural Machine Translation with CTC", EMNLP 2018. Alignments of which some tokens
are given: Saharia et al., "Non-Autoregressive Machine Translation with Latent Alignments" (Imputer), EMNLP 2020. Two
things differ from the Imputer. Its training alignments are the best ones of an earlier network; here the words are
evenly spaced, at a random offset, which needs no other network. And blanks are always masked: where the network is
uncertain, a blank is its best guess at most positions, and would leave no room for the word later.
"""

from dataclasses import dataclass

import torch

from src.models.decoder import END, PAD, START, UNK, random_mask, word_counts
from src.models.features import Features
from src.models.mask_predict import MaskPredict
from src.settings.schema import DecoderSettings

LOG_ZERO = -1e30
"""The logarithm of 0, finite so that differences stay numbers."""
_MIN_LOG_PROB = -1e4  # the least log-probability of a token at a position


class CTCMaskPredict(MaskPredict):
    """The target sequence is a CTC alignment of `decoder.upsample` positions per predicted word.

    Its tokens are the words, <unk> and the blank; PAD, START and END have no probability. Training uses the true
    length, so that every caption fits, with blanks between equal neighbours, whatever is masked.
    """

    blank: int
    uniforms_per_token = 2

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        self.blank = vocabulary_size
        super().__init__(settings, vocabulary_size, feature_width)
        self.upsample = settings.upsample

    def target_length(self, words: torch.Tensor) -> torch.Tensor:
        return self.upsample * words

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        special = torch.full_like(logits[..., :UNK], _MIN_LOG_PROB)
        return torch.cat([special, logits[..., UNK:]], dim=-1).log_softmax(dim=-1)

    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """An alignment of the caption; a uniform number of its words, at least one, and all blanks are masked.

        Word l is at position floor((l + u) * upsample) with one u in [0, 1) per caption, so that there is a blank
        between any two words.
        """
        words, longest = word_counts(captions), max(captions.shape[1] - 1, 1)
        # as wide as the longest caption may be: to ask how long it is would wait for a GPU
        place = torch.arange(self.upsample * longest, device=captions.device)
        within = place < self.target_length(words).unsqueeze(1)
        word = place // self.upsample
        of_word = place % self.upsample == (uniforms[:, :1].double() * self.upsample).long()
        targets = torch.where(of_word, captions[:, word], self.blank).masked_fill(~within, PAD)
        masked_words = random_mask(words, captions.shape[1], uniforms[:, 1:])
        return targets, within & (~of_word | masked_words[:, word])

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Log-probability of each word and of END given the words before, in a single pass of the most probable length.

        Exact: they sum to the log of the total probability of the caption's alignments. A caption that does not fit
        gets less than -10,000.
        """
        encoded = self.encode(features)
        targets = self.fully_masked(self.length_log_probs(encoded).argmax(dim=1))
        emissions = clamped_emissions(self.predict_masked(encoded, targets), targets, self.blank)
        return ctc_token_log_probs(emissions, self.blank, captions)


def clamped_emissions(log_probs: torch.Tensor, targets: torch.Tensor, blank: int) -> torch.Tensor:
    """Log-probabilities [N, L, V], none below -10,000, and a certain blank where `targets` [N, L] is PAD."""
    padding = torch.full_like(log_probs[:1, :1], _MIN_LOG_PROB)
    padding[..., blank] = 0.0
    return torch.where((targets == PAD).unsqueeze(2), padding, log_probs.clamp(min=_MIN_LOG_PROB))


@dataclass(frozen=True)
class CTCPrefix:
    """Forward variables of N caption prefixes (Graves, "Supervised Sequence Labelling", 2012, section 7.5).

    Log-probabilities in float64. `ends_in_word` and `ends_in_blank` [N, L + 1]: of all alignments of exactly the prefix
    to the first 0, 1, 2 … positions, that end with a word or a blank. `blanks` [N, L]: of a blank at each position.
    `last` [N]: the last word. `log_prob` [N]: of all captions with this prefix.
    """

    ends_in_word: torch.Tensor
    ends_in_blank: torch.Tensor
    blanks: torch.Tensor
    last: torch.Tensor
    log_prob: torch.Tensor

    @classmethod
    def empty(cls, emissions: torch.Tensor, blank: int) -> "CTCPrefix":
        """The prefix without a word, under `clamped_emissions` [N, L, V]."""
        blanks = emissions[:, :, blank].double()
        impossible = blanks.new_full((len(blanks), 1), LOG_ZERO)
        ends_in_blank = torch.cat([torch.zeros_like(impossible), blanks.cumsum(1)], 1)
        last = torch.full((len(blanks),), START, device=blanks.device)
        return cls(impossible.expand_as(ends_in_blank), ends_in_blank, blanks, last, torch.zeros_like(blanks[:, 0]))

    def extend(self, words: torch.Tensor, emissions: torch.Tensor) -> "CTCPrefix":
        """The prefixes with one more word [N], whose log-probability at each position is `emissions` [N, L]."""
        repeated = (words == self.last).unsqueeze(1)  # an equal word needs a blank in between
        either = torch.logaddexp(self.ends_in_word, self.ends_in_blank)
        emissions = emissions.double()
        begins = torch.where(repeated, self.ends_in_blank, either)[:, :-1] + emissions
        ends_in_word = _linear_recurrence(begins, emissions)
        ends_in_blank = _linear_recurrence(ends_in_word[:, :-1] + self.blanks, self.blanks)
        return CTCPrefix(ends_in_word, ends_in_blank, self.blanks, words, torch.logsumexp(begins, 1))

    def select(self, index: torch.Tensor) -> "CTCPrefix":
        """The prefixes at `index`."""
        fields = self.ends_in_word, self.ends_in_blank, self.blanks, self.last, self.log_prob
        return CTCPrefix(*(field.index_select(0, index) for field in fields))

    def caption_log_prob(self) -> torch.Tensor:
        """Log-probability of the caption of exactly these words: [N]."""
        return torch.logaddexp(self.ends_in_word[:, -1], self.ends_in_blank[:, -1])


def _linear_recurrence(added: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Logarithms a [N, L + 1] of a_0 = 0 and a_p = factors_p * a_{p-1} + added_p, given the logarithms of both."""
    total = factors.cumsum(1)
    values = total + torch.logcumsumexp(added - total, 1)
    return torch.cat([torch.full_like(values[:, :1], LOG_ZERO), values], 1)


def ctc_token_log_probs(emissions: torch.Tensor, blank: int, captions: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of `captions` [N, T] given those before it: float32 [N, T], 0 at PAD.

    `emissions` [N, L, V]: `clamped_emissions`. A token that does not fit counts -10,000.
    """
    prefix, log_probs = CTCPrefix.empty(emissions, blank), []
    for token in captions.unbind(1):
        ended = (token == END) | (token == PAD)
        index = token.view(-1, 1, 1).expand(-1, emissions.shape[1], 1)
        extended = prefix.extend(token, emissions.gather(2, index).squeeze(2))
        log_probs.append(torch.where(ended, prefix.caption_log_prob(), extended.log_prob) - prefix.log_prob)
        prefix = extended
    return torch.stack(log_probs, 1).clamp(min=_MIN_LOG_PROB).float().masked_fill(captions == PAD, 0.0)

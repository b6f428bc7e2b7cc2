"""A Transformer that fills in hidden symbols of an alignment: more places than words, some of them blank.

Graves et al., "Connectionist Temporal Classification", ICML 2006, over an up-sampled canvas as Libovický and Helcl,
"End-to-End Non-Autoregressive Neural Machine Translation with CTC", EMNLP 2018. Hidden symbols of alignments, of which
those shown cost nothing: Saharia et al., "Non-Autoregressive Machine Translation with Latent Alignments" (Imputer),
EMNLP 2020. Changed: there an alignment that training shows is the best one of an earlier network; here the words stand
evenly in it, at a random distance from its beginning, which needs no other network. And blanks are never shown: where
a network does not know what to say, a blank is its best guess at most places, and leaves no room to say it later.
"""

from dataclasses import dataclass

import torch

from src.models.decoder import END, PAD, START, UNK, random_mask, word_counts
from src.models.features import Features
from src.models.mask_predict import MaskPredict
from src.settings.schema import DecoderSettings

NEVER = -1e30
"""A logarithm of nothing that can still be subtracted from itself."""
_LEAST = -1e4  # the least log-probability of a symbol at a place


class CTCMaskPredict(MaskPredict):
    """A canvas has `decoder.upsample` places for each word that the photo is taken to need.

    Symbols are the words, <unk> and the blank; PAD, START and END have no probability. In training the caption's own
    length is taken: so each caption has room for its words and for the blanks between equal neighbours, and each shown
    alignment can be completed, whatever is hidden.
    """

    uniforms_per_token = 2

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, feature_width: int):
        self.blank = vocabulary_size
        super().__init__(settings, vocabulary_size, feature_width)
        self.upsample = settings.upsample

    def places(self, words: torch.Tensor) -> torch.Tensor:
        return self.upsample * words

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(logits[..., :UNK], _LEAST), logits[..., UNK:]], dim=-1).log_softmax(dim=-1)

    def mask_tokens(self, captions: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """An alignment of the caption, a uniform number of its words hidden, at least one, and all its blanks.

        Word l stands at place (l + u) `upsample`, rounded down, with one u in [0, 1) for the caption; so there is a
        blank between any two words.
        """
        words = word_counts(captions)
        places = self.places(words)
        width = max(int(places.max()), 1) if len(places) else 1
        canvas = torch.where(torch.arange(width, device=places.device) < places.unsqueeze(1), self.blank, PAD)
        number = torch.arange(captions.shape[1], device=places.device)
        place = ((number + uniforms[:, :1].double()) * self.upsample).long().clamp(max=width - 1)
        present = number < words.unsqueeze(1)
        row = torch.arange(len(captions), device=places.device).unsqueeze(1).expand_as(place)
        canvas[row[present], place[present]] = captions[present]
        hidden = random_mask(words, number.numel(), uniforms[:, 1:])
        unsaid = canvas == self.blank
        unsaid[row[hidden], place[hidden]] = True
        return canvas, unsaid

    def log_prob(self, features: Features, captions: torch.Tensor) -> torch.Tensor:
        """Of a caption read from one pass over a hidden canvas of the most probable length.

        The log-probability of each word and of END, given those before, is exact: they add up to the logarithm of the
        sum over all alignments of the caption. One that the canvas has no room for gets less than -10,000.
        """
        seen = self.encode(features)
        canvas = self.fully_masked(self.lengths(seen).argmax(dim=1))
        return prefix_log_probs(bounded(self.predict_masked(seen, canvas), canvas, self.blank), self.blank, captions)


def bounded(log_probs: torch.Tensor, canvas: torch.Tensor, blank: int) -> torch.Tensor:
    """Log-probabilities [N, P, V], none below -10,000, and a certain blank behind the end of each canvas [N, P]."""
    behind = torch.full_like(log_probs[:1, :1], _LEAST)
    behind[..., blank] = 0.0
    return torch.where((canvas == PAD).unsqueeze(2), behind, log_probs.clamp(min=_LEAST))


@dataclass(frozen=True)
class Beginning:
    """The first words of N captions, in logarithms, float64 (Graves, "Supervised Sequence Labelling", 2012, 7.5).

    `in_word` and `in_blank` [N, P + 1]: the probability of the alignments of exactly these words to the first 0, 1, 2 …
    places that end with a word, and with a blank. `blanks` [N, P]: of a blank at each place. `last` [N]: the last word.
    `log_prob` [N]: of all captions that begin so.
    """

    in_word: torch.Tensor
    in_blank: torch.Tensor
    blanks: torch.Tensor
    last: torch.Tensor
    log_prob: torch.Tensor

    @classmethod
    def empty(cls, lattice: torch.Tensor, blank: int) -> "Beginning":
        """No word yet. `lattice` [N, P, V]: as `bounded` makes it."""
        blanks = lattice[:, :, blank].double()
        nothing = blanks.new_full((len(blanks), 1), NEVER)
        in_blank = torch.cat([torch.zeros_like(nothing), blanks.cumsum(1)], 1)
        last = torch.full((len(blanks),), START, device=blanks.device)
        return cls(nothing.expand_as(in_blank), in_blank, blanks, last, torch.zeros_like(blanks[:, 0]))

    def before(self, words: torch.Tensor) -> torch.Tensor:
        """Log-probability [N, P] that the caption so far is said when each place starts to say `words` [N]."""
        same = (words == self.last).unsqueeze(1)
        return torch.where(same, self.in_blank, torch.logaddexp(self.in_word, self.in_blank))[:, :-1]

    def extend(self, words: torch.Tensor, saying: torch.Tensor) -> "Beginning":
        """One word [N] more; `saying` [N, P]: its log-probability at each place."""
        saying, before = saying.double(), self.before(words)
        in_word = _recurrence(before + saying, saying)
        in_blank = _recurrence(in_word[:, :-1] + self.blanks, self.blanks)
        return Beginning(in_word, in_blank, self.blanks, words, torch.logsumexp(before + saying, 1))

    def select(self, index: torch.Tensor) -> "Beginning":
        """Those at `index`."""
        fields = self.in_word, self.in_blank, self.blanks, self.last, self.log_prob
        return Beginning(*(field.index_select(0, index) for field in fields))

    def whole(self) -> torch.Tensor:
        """Log-probability of exactly these words: [N]."""
        return torch.logaddexp(self.in_word[:, -1], self.in_blank[:, -1])


def _recurrence(new: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Logarithms a [N, P + 1] with a_0 = 0 and a_p = kept_p a_{p-1} + new_p, written without logarithms."""
    total = kept.cumsum(1)
    found = total + torch.logcumsumexp(new - total, 1)
    return torch.cat([torch.full_like(found[:, :1], NEVER), found], 1)


def prefix_log_probs(lattice: torch.Tensor, blank: int, captions: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of `captions` [N, T] given those before it: float32 [N, T], 0 at PAD.

    `lattice` [N, P, V]: as `bounded` makes it. What it has no room for counts -10,000.
    """
    beginning, said = Beginning.empty(lattice, blank), []
    for token in captions.unbind(1):
        ends = (token == END) | (token == PAD)
        index = token.view(-1, 1, 1).expand(-1, lattice.shape[1], 1)
        after = beginning.extend(token, lattice.gather(2, index).squeeze(2))
        said.append(torch.where(ends, beginning.whole(), after.log_prob) - beginning.log_prob)
        beginning = after
    return torch.stack(said, 1).clamp(min=_LEAST).float().masked_fill(captions == PAD, 0.0)

"""The search that the settings describe."""

from collections.abc import Iterable, Sequence
from typing import Any

from src.decoding.autoregressive import StepDecoder
from src.decoding.beam import beam, greedy
from src.decoding.candidates import Candidates
from src.decoding.constraints import Constraints
from src.decoding.diverse_beam import diverse_beam
from src.decoding.mask_predict_search import mask_predict
from src.decoding.sampling import sample, uniforms_for
from src.models.decoder import UNK, NonAutoregressiveDecoder
from src.settings.schema import DecodingSettings


class CaptionSearch:
    """The search of the `decoding` settings, for a vocabulary `words` by token id.

    Bad endings that the vocabulary does not know are ignored.
    """

    def __init__(self, settings: DecodingSettings, words: Sequence[str]):
        self.settings = settings
        bad = set(settings.bad_endings.lower().split())
        endings = tuple(token for token, word in enumerate(words) if word in bad and token > UNK)
        limits = settings.minimum_words, settings.maximum_words, settings.no_repeat_ngram_size
        self.constraints = Constraints(*limits, endings)

    def __call__(
        self, decoder: StepDecoder | NonAutoregressiveDecoder, features: Any, rows: Iterable[int], seed: int
    ) -> Candidates:
        """Candidates of the photos, by descending normalised log-probability.

        `rows`: the photos' rows in their table; random numbers are a function of these and `seed`.
        """
        settings, rules = self.settings, self.constraints
        if isinstance(decoder, NonAutoregressiveDecoder):
            prefix_beam = settings.beam if settings.ctc == "prefix" else 0
            refinement = settings.passes, settings.length_beam, settings.repredict == "all"
            return mask_predict(decoder, features, rules, *refinement, prefix_beam, settings.length_penalty)
        if settings.search == "sample":
            uniforms = uniforms_for(seed, rows, settings.samples, rules.maximum_words + 1)
            filters = settings.temperature, settings.top_k, settings.top_p
            return sample(decoder, features, rules, uniforms, *filters).ranked(settings.length_penalty)
        if settings.search == "diverse":
            groups = settings.beam_groups, settings.diversity
            return diverse_beam(decoder, features, rules, settings.beam, settings.length_penalty, *groups)
        if settings.beam == 1:
            return greedy(decoder, features, rules)
        return beam(decoder, features, rules, settings.beam, settings.length_penalty)

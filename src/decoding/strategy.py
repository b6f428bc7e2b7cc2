"""The search that the settings describe."""

from collections.abc import Iterable, Sequence
from typing import Any

from src.decoding.autoregressive import StepDecoder
from src.decoding.beam import beam, greedy
from src.decoding.candidates import Candidates
from src.decoding.constraints import Constraints
from src.decoding.diverse_beam import diverse_beam, width_of_group
from src.decoding.mask_predict_search import mask_predict
from src.decoding.sampling import sample, uniforms_for
from src.models.decoder import UNK, NonAutoregressiveDecoder
from src.settings.schema import DecodingSettings


class CaptionSearch:
    """decoding.search with all its settings; `words` is the vocabulary, a token's id being its place.

    Raises InputError where decoding.beam_groups do not divide decoding.beam. Bad endings that the vocabulary does not know
    are left out.
    """

    def __init__(self, settings: DecodingSettings, words: Sequence[str]):
        self.settings = settings
        bad = set(settings.bad_endings.lower().split())
        endings = tuple(token for token, word in enumerate(words) if word in bad and token > UNK)
        self.constraints = Constraints(
            settings.minimum_words, settings.maximum_words, settings.no_repeat_ngram_size, endings
        )
        if settings.search == "diverse":
            width_of_group(settings.beam, settings.beam_groups)

    def __call__(
        self, decoder: StepDecoder | NonAutoregressiveDecoder, features: Any, rows: Iterable[int], seed: int
    ) -> Candidates:
        """Candidates of the photos, the best normalised log-probability first.

        `rows`: the photos' numbers, from which with `seed` the random numbers of sampling come.
        """
        chosen, rules = self.settings, self.constraints
        if isinstance(decoder, NonAutoregressiveDecoder):
            everything, width = chosen.repredict == "all", chosen.beam if chosen.ctc == "prefix" else 0
            return mask_predict(
                decoder, features, rules, chosen.passes, chosen.length_beam, everything, width, chosen.length_penalty
            )
        if chosen.search == "sample":
            uniforms = uniforms_for(seed, rows, chosen.samples, rules.maximum_words + 1)
            drawn = sample(decoder, features, rules, uniforms, chosen.temperature, chosen.top_k, chosen.top_p)
            return drawn.ranked(chosen.length_penalty)
        if chosen.search == "diverse":
            return diverse_beam(
                decoder, features, rules, chosen.beam, chosen.length_penalty, chosen.beam_groups, chosen.diversity
            )
        if chosen.beam == 1:
            return greedy(decoder, features, rules)
        return beam(decoder, features, rules, chosen.beam, chosen.length_penalty)

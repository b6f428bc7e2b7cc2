"""A single photo that no run has seen: which of the captions written of it has the highest expected score."""

from collections.abc import Sequence

import numpy as np

from src.ensembling.caption_rules import rare_endings
from src.ensembling.evidence import TEMPERATURE
from src.ensembling.expected_score import ExpectedScorer, mixed
from src.ensembling.mbr import EvidenceSource
from src.ensembling.retrieval import NeighbourSearch, neighbour_evidence
from src.metrics.caption_scores import tokenize
from src.settings.schema import Settings


class NewPhotoRanking:
    """Ranks captions of a new photo. The evidence is half the other captions, half what people wrote of the nearest
    training photos."""

    def __init__(self, settings: Settings, captions: Sequence[Sequence[str]], features: np.ndarray | None):
        """captions: those of each photo [N] that is for training, none of others. features: the `retrieval_features` of
        the photos; without them only the captions are evidence."""
        self.tokens = tokenize([list(texts) for texts in captions])
        self.neighbours = settings.ensemble.neighbours
        captioned = [row for row, texts in enumerate(self.tokens) if texts]
        self.broken = rare_endings([text for texts in self.tokens for text in texts])
        self.scorer = ExpectedScorer([self.tokens[row] for row in captioned], settings.metric.weights)
        self.search = None if features is None else NeighbourSearch([features], np.array(captioned), self.tokens)

    def __call__(
        self, caption: str, candidates: Sequence[str], features: np.ndarray
    ) -> tuple[list[int], list[tuple[str, float]]]:
        """The rows of the nearest training photos with captions, and the captions with expected scores, best first.

        caption: stays whatever it is; candidates: others, left out where they break off. features: of the photo, [D] or
        [V, D] as the tables are.
        """
        texts = list(dict.fromkeys([caption, *candidates]))
        by_tokens: dict[str, str] = {}
        for text, (tokens,) in zip(texts, tokenize([[text] for text in texts]), strict=True):
            if text == caption or tokens and tokens.split()[-1] not in self.broken:
                by_tokens.setdefault(tokens, text)
        written, rows = list(by_tokens), []
        sources = [EvidenceSource(written)]
        if self.search:
            neighbours = self.search.of_new([features[None]], self.neighbours)
            rows = [row for row in neighbours.rows[0].tolist() if row >= 0]
            sources += neighbour_evidence(neighbours, self.tokens, TEMPERATURE)
        parts = [self.scorer.expected([written], [source.leaving_one_out(written)]) for source in sources]
        scores = mixed(parts, [1 / len(parts)] * len(parts)).caption_score
        order = np.argsort(-scores, kind="stable").tolist()
        return rows, [(by_tokens[written[place]], float(scores[place])) for place in order]

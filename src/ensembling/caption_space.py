"""Photos by what people would write of them: vectors of captions, predicted from features of the photos.

The vector of a photo that people described is a latent semantic analysis of its captions (Deerwester et al. 1990):
TF-IDF of stems and of pairs of stems, reduced by a truncated SVD. Kernel ridge regression predicts this vector from the
photo's features. So two photos are alike where the same would be written of them, whatever else their features tell
apart (retrieval across modalities: Hodosh et al. 2013, "Framing Image Description as a Ranking Task", by kernel CCA).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from src.ensembling import kernel_machines
from src.ensembling.kernel_machines import KernelFeatures, Table, blocks_of, fit_kernel_ridge
from src.metrics.meteor_proxy import stems

DIMENSIONS = 200
"""Of the vectors, at most."""
_ALPHA = 0.3
"""The penalty of the regression: captions follow from features less closely than MOS does."""


def caption_vectors(references: Sequence[Sequence[str]]) -> np.ndarray:
    """The vectors of photos by their captions, which are tokenised, at least one each: float32 [photos, D].

    They are centred, then of length 1; 0 where all photos' captions are alike.
    """
    texts = [[term for caption in captions for term in _terms(caption)] for captions in references]
    photos = Counter(term for terms in texts for term in set(terms))
    # a term of one photo says nothing of another, but a few photos may share none
    vectorizer = TfidfVectorizer(analyzer=lambda terms: terms, sublinear_tf=True, min_df=min(2, max(photos.values())))
    counted = vectorizer.fit_transform(texts)
    left, sizes, _ = randomized_svd(counted, min(DIMENSIONS, *counted.shape), random_state=0)
    vectors = left * sizes
    return _unit(vectors - vectors.mean(axis=0))


def _terms(caption: str) -> list[str]:
    words = stems(caption.split())
    return [*words, *(f"{first} {second}" for first, second in zip(words, words[1:], strict=False))]


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9).astype(np.float32)


class CaptionSpace:
    """Vectors of training photos by their captions, and those that are predicted of any photo from its features.

    The regression learns from kernel_machines.KERNEL_PHOTOS of the training photos at most.
    """

    def __init__(self, tables: Sequence[np.ndarray], training: np.ndarray, references: Sequence[Sequence[str]]):
        """tables: features of all photos side by side, [N, D] or [N, V, D] of V views, which may be mapped from files.
        training: rows of the photos with captions, at least one. references: tokenised, of all photos, by row."""
        self.vectors = caption_vectors([references[row] for row in training])
        """Of the training photos, float32 [T, D]."""
        learned = np.linspace(0, len(training) - 1, min(len(training), kernel_machines.KERNEL_PHOTOS)).astype(int)
        self._features = KernelFeatures([Table(table, cut=True) for table in tables], training[learned])
        self._machine = fit_kernel_ridge(self._features.rows(training[learned]), self.vectors[learned], _ALPHA)

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The vectors predicted of the photos at `rows`, float32 [rows, D]."""
        return _unit(np.concatenate([self._machine.predict(self._features.rows(block)) for block in blocks_of(rows)]))

    def of_new(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """The same of photos that are not in the tables, by their features [Q, D] or [Q, V, D] for each table."""
        return _unit(self._machine.predict(self._features.of(features)))

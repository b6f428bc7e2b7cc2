"""Nearest training photos against a slow computation, and their captions as evidence."""

import numpy as np
import pytest
from nltk.stem.snowball import EnglishStemmer
from sklearn.kernel_ridge import KernelRidge

from src.ensembling import caption_space, kernel_machines, retrieval
from src.ensembling.expected_score import ExpectedScorer
from src.ensembling.mbr import best_candidates
from src.ensembling.retrieval import NeighbourSearch, neighbour_evidence
from src.settings.schema import CaptionWeights


def photos_of_kinds(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[list[str]]]:
    """Features of photos of three kinds, and one to three captions of each, which are of its kind."""
    kind = np.arange(count) % 3
    features = (np.eye(3)[kind] @ rng.normal(size=(3, 7)) + 0.5 * rng.normal(size=(count, 7))).astype(np.float32)
    words = [["dogs", "run", "on", "grass"], ["the", "sea", "is", "dark"], ["lovely", "light", "on", "hills"]]
    said = [[" ".join(rng.choice(words[k], 3)) for _ in range(1 + i % 3)] for i, k in enumerate(kind)]
    return features * [1, 100, 0.01, 1, 1, 1, 0] + 5, said


def expected_vectors(features, said, training, wanted):
    """Slow and by other means: counts in a loop, exact SVD, scikit-learn's kernel ridge regression."""
    terms = [[stem for text in said[row] for stem in words_and_pairs(text)] for row in training]
    names = sorted({term for each in terms for term in each if sum(term in other for other in terms) > 1})
    counts = np.array([[each.count(name) for name in names] for each in terms], float)
    weights = np.log(np.maximum(counts, 1)) + (counts > 0)
    weights *= np.log((1 + len(terms)) / (1 + (counts > 0).sum(0))) + 1
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    left, sizes, _ = np.linalg.svd(weights, full_matrices=False)
    vectors = (left * sizes)[:, : caption_space.DIMENSIONS]
    vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mean, spread = features[training].mean(0), features[training].std(0) + 1e-6
    inputs = (features - mean) / spread
    inputs /= np.sqrt(np.square(inputs[training]).mean(0).sum())
    predicted = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.3).fit(inputs[training], vectors).predict(inputs[wanted])
    return vectors, predicted / np.linalg.norm(predicted, axis=1, keepdims=True)


def words_and_pairs(text):
    words = [EnglishStemmer().stem(word) for word in text.split()]
    return [*words, *(" ".join(words[i : i + 2]) for i in range(len(words) - 1))]


@pytest.mark.parametrize("cells", [retrieval._CELLS, 50])
def test_neighbours_are_the_nearest_by_predicted_captions(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "_CELLS", cells)
    rng = np.random.default_rng(0)
    features, said = photos_of_kinds(rng, 60)
    training, queries = np.arange(48)[rng.permutation(48)], np.arange(12, 60)
    vectors, predicted = expected_vectors(features.astype(float), said, np.arange(48), queries)
    search = NeighbourSearch([features], training, said)
    neighbours = search.of_rows(queries, 5)
    for place, (rows, similarity) in enumerate(zip(neighbours.rows, neighbours.similarity, strict=True)):
        cosine = vectors @ predicted[place]
        cosine[queries[place] : queries[place] + 1] = -np.inf
        np.testing.assert_allclose(similarity, np.sort(cosine)[:-6:-1], atol=1e-4)
        np.testing.assert_allclose(cosine[rows], similarity, atol=1e-4)
    new = search.of_new([features[48:]], 5)
    np.testing.assert_array_equal(new.rows, neighbours.rows[36:])


def test_captions_tell_which_photos_are_alike():
    """Most of what these features tell is no matter of captions, and photos of other kinds look the same."""
    rng = np.random.default_rng(0)
    features, said = photos_of_kinds(rng, 120)
    noise = 3 * np.repeat(rng.normal(size=(40, 30)), 3, axis=0)  # three photos, one of each kind, look the same
    tables, training = [features, noise.astype(np.float32)[:, None]], np.arange(90)
    neighbours = NeighbourSearch(tables, training, said).of_rows(np.arange(90, 120), 10)
    assert (neighbours.rows % 3 == np.arange(90, 120)[:, None] % 3).mean() > 0.8


def test_neighbours_may_be_few_and_weigh_by_likeness():
    features = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, 1]], np.float32)
    features[3, 0] = np.nan
    said = [["a red boat"], ["a red boat here"], ["dogs run"], ["a boat"]]
    neighbours = NeighbourSearch([features], np.arange(4), said).of_rows(np.array([0]), 6)
    assert sorted(neighbours.rows[0, :3].tolist()) == [1, 2, 3] and (neighbours.rows[0, 3:] == -1).all()
    weights = neighbours.weights(0.5)[0]
    assert weights.sum() == pytest.approx(1) and (np.diff(weights[:3]) < 0).all() and (weights[3:] == 0).all()
    ratio = np.exp((neighbours.similarity[0, 0] - neighbours.similarity[0, 1]) / 0.5)
    assert weights[0] / weights[1] == pytest.approx(ratio, rel=1e-5)
    for training in ([0], []):
        alone = NeighbourSearch([features], np.array(training, int), said).of_rows(np.array([0]), 2)
        assert (alone.rows == -1).all() and (alone.weights(1.0) == 0).all()


def test_a_regression_learns_from_a_bounded_number_of_photos(monkeypatch):
    """All training photos are searched, and the kind of a photo is told by the few that the regression learned from."""
    monkeypatch.setattr(kernel_machines, "KERNEL_PHOTOS", 30)
    features, said = photos_of_kinds(np.random.default_rng(0), 300)
    neighbours = NeighbourSearch([features], np.arange(240), said).of_rows(np.arange(240, 300), 40)
    assert len(np.unique(neighbours.rows)) > 100
    assert (neighbours.rows % 3 == np.arange(240, 300)[:, None] % 3).mean() > 0.8


def test_mbr_among_the_neighbours_captions_is_a_captioner():
    """Three kinds of photos; of each most people say the same, and some say what is said of other kinds."""
    rng, words = (
        np.random.default_rng(1),
        ["a dark photo of the sea", "lovely light on green hills", "two dogs play here"],
    )
    kind = np.arange(60) % 3
    features = (np.eye(3)[kind] + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
    said = [[words[k], words[rng.integers(3)]] for k in kind[:45]] + [[]] * 15
    neighbours = NeighbourSearch([features], np.arange(45), said).of_rows(np.arange(45, 60), 6)
    sources = neighbour_evidence(neighbours, said, temperature=0.1)
    assert all(sum(source.weights) == pytest.approx(1) and len(source.captions) == 12 for source in sources)
    scorer, candidates = ExpectedScorer(said[:45], CaptionWeights()), [list(dict.fromkeys(s.captions)) for s in sources]
    evidence = [source.leaving_one_out(texts) for source, texts in zip(sources, candidates, strict=True)]
    expected = scorer.expected(candidates, evidence)
    best = best_candidates([expected], [len(texts) for texts in candidates], scorer.weights)
    flat = [text for texts in candidates for text in texts]
    assert [flat[place] for place in best] == [words[k] for k in kind[45:]]
    nobody = NeighbourSearch([features], np.array([0]), said).of_rows(np.array([0]), 2)
    assert not neighbour_evidence(nobody, said, 1.0)[0].captions

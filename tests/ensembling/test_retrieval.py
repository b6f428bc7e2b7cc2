"""Nearest training photos against brute force, and their captions as evidence."""

import numpy as np
import pytest

from src.ensembling import retrieval
from src.ensembling.expected_score import ExpectedScorer
from src.ensembling.mbr import best_candidates
from src.ensembling.retrieval import FeatureSpace, NeighbourSearch, neighbour_evidence
from src.settings.schema import CaptionWeights


@pytest.mark.parametrize("cells", [retrieval._CELLS, 50])
def test_neighbours_are_the_nearest_training_photos(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "_CELLS", cells)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 7)).astype(np.float32) * [1, 100, 0.01, 1, 1, 1, 0] + 5
    features[3, 2], features[50, 1] = np.nan, np.inf
    training, queries = np.arange(48)[rng.permutation(48)], np.arange(12, 60)
    space = np.nan_to_num(features.astype(np.float64), nan=np.nan, posinf=np.nan)
    space = space - np.nanmean(space[:48], axis=0)
    space = np.nan_to_num(space[:, :6] / np.nanstd(space[:48, :6], axis=0))
    cosine = (space @ space.T) / np.outer(*2 * [np.linalg.norm(space, axis=1)])
    neighbours = NeighbourSearch([features], training).of_rows(queries, 5)
    for rows, similarity, query in zip(neighbours.rows, neighbours.similarity, queries.tolist(), strict=True):
        expected = sorted((i for i in range(48) if i != query), key=lambda i: -cosine[query, i])[:5]
        assert rows.tolist() == expected
        np.testing.assert_allclose(similarity, cosine[query, expected], atol=1e-4)


def test_neighbours_weigh_by_likeness_and_may_be_few():
    features = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, 1]], np.float32)
    found = NeighbourSearch([features], np.arange(4)).of_rows(np.array([0]), 6)
    assert sorted(found.rows[0, :3].tolist()) == [1, 2, 3] and (found.rows[0, 3:] == -1).all()
    weights = found.weights(0.5)[0]
    assert weights.sum() == pytest.approx(1) and (np.diff(weights[:3]) < 0).all() and (weights[3:] == 0).all()
    ratio = np.exp((found.similarity[0, 0] - found.similarity[0, 1]) / 0.5)
    assert weights[0] / weights[1] == pytest.approx(ratio, rel=1e-5)
    alone = NeighbourSearch([features], np.array([0])).of_rows(np.array([0]), 2)
    assert (alone.rows == -1).all() and (alone.weights(1.0) == 0).all()
    assert np.allclose(np.linalg.norm(FeatureSpace([features], np.arange(4)).vectors(np.arange(4)), axis=1), 1)


def test_tables_that_are_read_in_blocks_are_one_space(monkeypatch, tmp_path):
    """Mapped files side by side, in small blocks, are to the last bit what the joint table in memory is."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 70)).astype(np.float32) + 3
    features[5], features[9, 3] = np.nan, np.inf
    queries, training = np.arange(100, 300), rng.permutation(200)
    whole = NeighbourSearch([features], training).of_rows(queries, 9)
    for place, part in enumerate((features[:, :64], features[:, 64:])):
        np.save(tmp_path / f"{place}.npy", part)
    mapped = [np.load(tmp_path / f"{place}.npy", mmap_mode="r") for place in range(2)]
    monkeypatch.setattr(retrieval, "_ROWS", 7)
    monkeypatch.setattr(retrieval, "_COLUMNS", 16)
    again = NeighbourSearch(mapped, training).of_rows(queries, 9)
    np.testing.assert_array_equal(again.rows, whole.rows)
    np.testing.assert_array_equal(again.similarity, whole.similarity)


def test_mbr_among_the_neighbours_captions_is_a_captioner():
    """Three kinds of photos; of each most people say the same, and some say what is said of other kinds."""
    rng, words = (
        np.random.default_rng(1),
        ["a dark photo of the sea", "lovely light on green hills", "two dogs play here"],
    )
    kind = np.arange(60) % 3
    features = (np.eye(3)[kind] + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
    said = [[words[k], words[rng.integers(3)]] for k in kind[:45]] + [[]] * 15
    found = NeighbourSearch([features], np.arange(45)).of_rows(np.arange(45, 60), 6)
    sources = neighbour_evidence(found, said, temperature=0.1)
    assert all(sum(source.weights) == pytest.approx(1) and len(source.captions) == 12 for source in sources)
    scorer, candidates = ExpectedScorer(said[:45], CaptionWeights()), [list(dict.fromkeys(s.captions)) for s in sources]
    evidence = [source.leaving_one_out(texts) for source, texts in zip(sources, candidates, strict=True)]
    expected = scorer.expected(candidates, evidence)
    best = best_candidates([expected], [len(texts) for texts in candidates], scorer.weights)
    flat = [text for texts in candidates for text in texts]
    assert [flat[place] for place in best] == [words[k] for k in kind[45:]]
    nobody = neighbour_evidence(NeighbourSearch([features], np.array([0])).of_rows(np.array([0]), 2), said, 1.0)[0]
    assert not nobody.captions

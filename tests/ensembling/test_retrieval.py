"""Nearest photos against brute force, and the captions that a finished fold proposes."""

import contextlib

import numpy as np
import pytest
import torch

from src import preprocess, split
from src.decoding.strategy import CaptionSearch
from src.ensembling import retrieval
from src.ensembling.expected_score import ExpectedScorer
from src.ensembling.mbr import EvidenceSource, consensus, pool
from src.ensembling.retrieval import nearest_neighbours, neighbour_evidence, standardised
from src.inference.fold_candidates import candidate_searches, generate_candidates
from src.inference.fold_predictions import open_network, predict_fold
from src.pipeline import outputs
from src.settings.load import load
from src.settings.schema import CaptionWeights
from src.training.distributed import Ranks
from src.training.fit import Fit
from src.training.fold_data import read_fold
from tests.conftest import TINY
from tests.helpers.small_meteor import small_meteor

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("cells", [retrieval._CELLS, 50])
def test_neighbours_are_the_nearest_of_other_folds(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "_CELLS", cells)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 7)).astype(np.float32) * [1, 100, 0.01, 1, 1, 1, 0] + 5
    features[3, 2], features[50, 1] = np.nan, np.inf
    training, queries, fold = np.arange(48)[rng.permutation(48)], np.arange(12, 60), np.arange(60) % 3
    space = np.nan_to_num(features.astype(np.float64), nan=np.nan, posinf=np.nan)
    space = space - np.nanmean(space[:48], axis=0)
    space = np.nan_to_num(space[:, :6] / np.nanstd(space[:48, :6], axis=0))
    cosine = (space @ space.T) / np.outer(*2 * [np.linalg.norm(space, axis=1)])
    for barred in (None, fold):
        found = nearest_neighbours(features, queries, training, 5, barred)
        for row, similarity, query in zip(found.rows, found.similarity, queries.tolist(), strict=True):
            allowed = [i for i in range(48) if i != query and (barred is None or fold[i] != fold[query])]
            expected = sorted(allowed, key=lambda i: -cosine[query, i])[:5]
            assert row.tolist() == expected
            np.testing.assert_allclose(similarity, cosine[query, expected], atol=1e-4)


def test_neighbours_weigh_by_likeness_and_may_be_few():
    features = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, 1]], np.float32)
    found = nearest_neighbours(features, np.array([0]), np.arange(4), 6)
    assert sorted(found.rows[0, :3].tolist()) == [1, 2, 3] and (found.rows[0, 3:] == -1).all()
    weights = found.weights(0.5)[0]
    assert weights.sum() == pytest.approx(1) and (np.diff(weights[:3]) < 0).all() and (weights[3:] == 0).all()
    ratio = np.exp((found.similarity[0, 0] - found.similarity[0, 1]) / 0.5)
    assert weights[0] / weights[1] == pytest.approx(ratio, rel=1e-5)
    alone = nearest_neighbours(features, np.array([0]), np.arange(4), 2, np.zeros(4))
    assert (alone.rows == -1).all() and (alone.weights(1.0) == 0).all()
    assert np.allclose(np.linalg.norm(standardised(features, np.arange(4)), axis=1), 1)


def test_the_consensus_of_neighbours_is_a_captioner():
    """Three kinds of photos; of each most people say the same, and some say what is said of other kinds."""
    rng, words = (
        np.random.default_rng(1),
        ["a dark photo of the sea", "lovely light on green hills", "two dogs play here"],
    )
    kind = np.arange(60) % 3
    features = (np.eye(3)[kind] + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
    said = [[words[k], words[rng.integers(3)]] for k in kind[:45]] + [[]] * 15
    found = nearest_neighbours(features, np.arange(45, 60), np.arange(45), 6)
    voices = neighbour_evidence(found, said, temperature=0.1)
    assert all(sum(voice.weights) == pytest.approx(1) and len(voice.captions) == 12 for voice in voices)
    choice = consensus([pool([voice]) for voice in voices], ExpectedScorer(said[:45], CaptionWeights()))
    assert choice.captions == [words[k] for k in kind[45:]]
    nobody = neighbour_evidence(nearest_neighbours(features, np.array([0]), np.array([0]), 2), said, 1.0)[0]
    assert pool([EvidenceSource(["a constant"], share=0.1), nobody]).candidates == ["a constant"]


@pytest.fixture(scope="module")
def finished(competition, tmp_path_factory):
    """Settings and data of a finished fold, and its folder."""
    folder = tmp_path_factory.mktemp("proposing")
    arguments = [f"data.root={competition}", *TINY, f"run.root={folder}/runs", "task=caption", "train.epochs=1"]
    preprocess.main(arguments)
    split.main(arguments)
    settings, _ = load(arguments, "train")
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    data = read_fold(*places, 0, settings.vocabulary.maximum_words)
    with contextlib.closing(small_meteor(folder)) as meteor:
        Fit(settings, data, 0, folder, ONE, meteor).run()
    return settings, data, folder


def test_a_fold_proposes_what_its_searches_find(finished):
    settings, data, folder = finished
    rows = data.validation_rows.tolist()[:9]
    searches = candidate_searches(settings, samples=4)
    found = generate_candidates(folder, settings, data.labels, rows, searches, ONE, "candidates")
    predicted = predict_fold(folder, settings, data.labels, rows, ONE, "fold 0")
    network, portrait = open_network(folder / "best-caption.pt", settings)
    pixels = torch.from_numpy(np.load(data.labels.pixels, mmap_mode="r")[rows])
    with torch.inference_mode():
        features = network.features(pixels)
        drawn = CaptionSearch(searches["sample"], portrait["words"])(network.decoder, features, rows, settings.run.seed)
        log_probs = [network.decoder.log_prob(features, drawn.tokens[:, i]).sum(1) for i in range(4)]
    for photo, row in enumerate(rows):
        each = found[row]
        assert list(each.sources) == ["greedy"] + ["search"] * 2 + ["diverse"] * 6 + ["sample"] * 4
        assert each.captions[1] == predicted[row].caption
        assert list(each.captions[9:]) == [data.vocabulary.decode(ids) for ids in drawn.tokens[photo].tolist()]
        np.testing.assert_allclose(each.log_probs[9:], [values[photo] for values in log_probs], atol=1e-4)
        np.testing.assert_allclose(each.pooled, features.pooled[photo], atol=1e-5)
    assert len({caption for each in found.values() for caption in each.captions}) > 12


def test_features_alone_need_no_search(finished):
    settings, data, folder = finished
    rows = data.train_rows.tolist()[:5]
    found = generate_candidates(folder, settings, data.labels, rows, {}, ONE, "features")
    features = np.stack([found[row].pooled for row in rows])
    assert features.dtype == np.float32 and len(np.unique(features, axis=0)) == 5
    assert all(each.captions == () for each in found.values())

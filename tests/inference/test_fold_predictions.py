"""What a finished fold predicts: against its searches one by one, as files, and as tables of the run."""

import numpy as np
import pandas as pd
import pytest
import torch

from src import preprocess, split
from src.data.prediction_tables import UNREADABLE, read_predictions
from src.data.table import load_table
from src.decoding.strategy import CaptionSearch
from src.inference.caption_candidates import SEARCH, best_captions, candidate_searches, generate_captions
from src.inference.fold_predictions import (
    predict_fold,
    read_fold_candidates,
    write_fold_predictions,
    write_run_predictions,
)
from src.inference.networks import open_network
from src.pipeline import outputs
from src.settings.load import load
from src.training.distributed import Ranks
from src.training.fit import Fit
from src.training.fold_data import read_fold
from tests.conftest import TINY

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(competition, meteor, tmp_path_factory):
    """Settings and data of a finished fold of captions, and its folder."""
    folder = tmp_path_factory.mktemp("predicting")
    arguments = [f"data.root={competition}", *TINY, f"run.root={folder}/runs", "task=caption", "train.epochs=1"]
    arguments += ["predict.candidates=true", "predict.samples=4"]
    preprocess.main(arguments)
    split.main(arguments)
    settings, _ = load(arguments, "train")
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    data = read_fold(*places, 0, settings.vocabulary.maximum_words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
        Fit(settings, data, 0, folder, ONE).run()
    return settings, data, folder


def test_candidates_are_what_each_search_finds_by_itself(finished):
    settings, data, folder = finished
    rows = data.validation_rows.tolist()[:9]
    searches = candidate_searches(settings)
    written = generate_captions([folder], settings, data.labels, rows, searches, ONE, "candidates")
    alone = best_captions([folder], settings, data.labels, rows, ONE, "captions")
    network, content = open_network(folder / "best-caption.pt", settings)
    pixels = torch.from_numpy(np.load(data.labels.pixels, mmap_mode="r")[rows])
    with torch.inference_mode():
        features = network.features(pixels)
        drawn = CaptionSearch(searches["sample"], content["words"])(network.decoder, features, rows, settings.run.seed)
    for photo, row in enumerate(rows):
        captions = written[row]
        assert list(captions.sources) == ["greedy"] + ["search"] * 2 + ["diverse"] * 6 + ["sample"] * 4
        assert captions.candidates[1] == captions.caption == alone[row]
        assert list(captions.candidates[9:]) == [data.vocabulary.decode(ids) for ids in drawn.tokens[photo].tolist()]
        np.testing.assert_allclose(captions.pooled, features.pooled[photo], atol=1e-5)
    assert len({caption for captions in written.values() for caption in captions.candidates}) > 12


def test_a_fold_s_files_hold_candidates_and_the_features_of_all_photos(finished, tmp_path):
    settings, data, folder = finished
    table = load_table(outputs.photos(settings).folder / "photos.jsonl")
    names, tested = table["photo_id"].tolist(), np.flatnonzero(table["part"] == "test").tolist()
    predictions = predict_fold(folder, settings, data, tested[1:], ONE, "fold 0")
    files = write_fold_predictions(tmp_path, predictions, names, settings)
    assert files == ["predictions.csv", "candidates.jsonl", "pooled.npy"]
    frame = read_predictions(tmp_path / "predictions.csv").set_index("photo_id")
    assert list(frame.index) == [names[row] for row in data.validation_rows.tolist() + tested[1:]]
    assert frame["mos"].isna().all()
    candidates = read_fold_candidates(tmp_path)
    assert list(candidates.captions) == list(frame.index)
    assert all(frame["caption"][name] == texts[1] for name, texts in candidates.captions.items())
    assert all(candidates.greedy[name] == texts[0] for name, texts in candidates.captions.items())
    pooled = np.load(tmp_path / "pooled.npy")
    assert np.flatnonzero(np.isnan(pooled).any(axis=1)).tolist() == tested[:1] and pooled.dtype == np.float32
    encoded = generate_captions([folder], settings, data.labels, data.train_rows.tolist()[:5], {}, ONE, "features")
    for row, photo in encoded.items():
        assert photo.candidates == () and photo.caption == ""
        np.testing.assert_allclose(photo.pooled, pooled[row], atol=1e-5)


def test_without_candidates_a_fold_writes_the_same_captions_and_no_more(finished, tmp_path):
    settings, data, folder = finished
    given = [f"{key}={value}" for key, value in {"predict.candidates": "false"}.items()]
    plain, _ = load([*TINY, "task=caption", *given, f"data.root={settings.data.root}"], "predict")
    rows = data.validation_rows.tolist()
    predictions = predict_fold(folder, plain, data, [], ONE, "fold 0")
    written = generate_captions([folder], settings, data.labels, rows, candidate_searches(settings), ONE, "")
    assert {row: photo.caption for row, photo in predictions.captions.items()} == {
        row: photo.caption for row, photo in written.items()
    }
    assert {source for photo in predictions.captions.values() for source in photo.sources} == {SEARCH}
    assert write_fold_predictions(tmp_path, predictions, [""] * len(data.labels.mos), plain) == ["predictions.csv"]


def test_the_run_s_tables_take_each_photo_from_the_folds_that_never_saw_it(tmp_path):
    parts = ["train", "test", "train", "test", "train", "test"]
    table = pd.DataFrame({"photo_id": list("abcdef"), "part": parts})
    folds = {}
    for fold, rows in enumerate((["c", "b", "d"], ["e", "a", "b", "d"])):
        folds[fold] = tmp_path / str(fold)
        folds[fold].mkdir()
        mos = [fold + ord(name) / 3 for name in rows]
        frame = pd.DataFrame({"photo_id": rows, "mos": mos, "caption": [f"{name}{fold}" for name in rows]})
        frame.to_csv(folds[fold] / "predictions.csv", index=False)
        (folds[fold] / "timing.json").write_text('{"photos": 3, "seconds": 1.5}')
    files = write_run_predictions(tmp_path, table, folds, 1, None)
    oof, test, each = (read_predictions(tmp_path / name) for name in files)
    assert oof[["photo_id", "fold", "caption"]].to_numpy().tolist() == [["a", 1, "a1"], ["c", 0, "c0"], ["e", 1, "e1"]]
    assert oof["mos"].tolist() == [1 + ord("a") / 3, ord("c") / 3, 1 + ord("e") / 3]
    assert test["photo_id"].tolist() == ["b", "d", "f"] and test["caption"].tolist() == ["b1", "d1", ""]
    assert test["fallback"].tolist() == ["", "", UNREADABLE] and np.isnan(test["mos"][2])
    assert test["mos"].tolist()[:2] == [(ord(name) / 3 + (1 + ord(name) / 3)) / 2 for name in "bd"]
    assert each[["photo_id", "fold"]].to_numpy().tolist() == [["b", 0], ["d", 0], ["b", 1], ["d", 1]]
    write_run_predictions(tmp_path, table, folds, 1, {1: "together", 3: "as one"})
    assert read_predictions(tmp_path / "test.csv")["caption"].tolist() == ["together", "as one", ""]

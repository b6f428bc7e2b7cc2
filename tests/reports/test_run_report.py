"""A run's report scores what was measured, beside baselines that never saw the photos."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.constant_caption import ConstantCaption
from src.metrics.mos_score import mos_score
from src.reports import run_report
from src.reports.run_report import TEST, RunEvaluation
from src.settings.schema import Settings

SETTINGS = dataclasses.replace(Settings(), metric=dataclasses.replace(Settings().metric, bootstrap=100))
WORDS = ["light", "colour", "sharp", "photo", "nice", "dark", "blur", "warm", "mood", "sky"]


@pytest.fixture
def searched(monkeypatch) -> list[list[str]]:
    """The captions among which constant sentences were searched; the first of them is taken."""
    searches: list[list[str]] = []

    def first(references, *_):
        searches.append(sorted(text for texts in references for text in texts))
        return ConstantCaption(references[0][0], 1.0)

    monkeypatch.setattr("src.reports.run_report.constant_sentence", first)
    return searches


@pytest.fixture
def table() -> pd.DataFrame:
    """12 training photos, of which the last has neither label, and 4 test photos with labels."""
    rng = np.random.default_rng(0)
    captions = [(f"{' '.join(rng.choice(WORDS, 6))} {i}",) for i in range(16)]
    frame = pd.DataFrame({"mos": rng.normal(5, 1, 16), "captions": captions})
    frame["part"] = ["train"] * 12 + ["test"] * 4
    frame.loc[11, "mos"] = np.nan
    frame.at[11, "captions"] = ()
    return frame.set_index(pd.Index([f"p{i}" for i in range(16)], name="photo_id"))


@pytest.fixture
def predictions(table) -> pd.DataFrame:
    """Out of fold in two folds, with two members."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"photo_id": table.index[:12], "fold": np.arange(12) % 2})
    frame["network"] = table["mos"].fillna(5).to_numpy()[:12] + rng.normal(0, 0.5, 12)
    frame["ridge"] = table["mos"].fillna(5).to_numpy()[:12] + rng.normal(0, 2, 12)
    frame["mos"] = (frame["network"] + frame["ridge"]) / 2
    frame["caption"] = [f"{' '.join(rng.choice(WORDS, 5))}" for _ in range(12)]
    return frame


def test_scores_are_those_of_the_labelled_photos(table, predictions, searched, shared_meteor):
    report = RunEvaluation(SETTINGS, table, predictions, {}).out_of_fold()
    truth = table["mos"].to_numpy()[:11]
    assert report["mos"]["score"] == mos_score(predictions["mos"][:11], truth)["score"]
    assert list(report["members"]) == ["network", "ridge"]
    assert report["baseline"]["mos"] == mos_score(predictions["ridge"][:11], truth)["score"]
    references = [list(texts) for texts in table["captions"][:11]]
    weights, captions = SETTINGS.metric.weights, predictions["caption"][:11].tolist()
    expected = caption_score(score_captions(references, captions).totals(), weights)
    assert report["caption"]["score"] == pytest.approx(expected) and report["caption"]["photos"] == 11
    assert report["diagnostics"]["captions"]["photos"] == 11
    rows = [i for i in range(11) if i % 2 == 1]
    fold = report["folds"][1]
    assert fold["mos"] == pytest.approx(mos_score(predictions["mos"][rows], truth[rows])["score"])


def test_the_constant_sentence_of_a_fold_is_searched_among_the_captions_of_the_others(
    table, predictions, searched, shared_meteor
):
    evaluation = RunEvaluation(SETTINGS, table, predictions, {})
    report = evaluation.out_of_fold()
    texts = [text for (text,) in table["captions"][:11]]
    assert searched == [sorted(texts[1::2]), sorted(texts[0::2])]
    constants = [texts[1] if i % 2 == 0 else texts[0] for i in range(11)]
    scores = score_captions([[text] for text in texts], constants)
    assert report["baseline"]["caption"] == pytest.approx(caption_score(scores.totals(), SETTINGS.metric.weights))
    assert report["baseline"]["sentence"] == f"{texts[1]} | {texts[0]}"
    test = predictions[:4].assign(photo_id=table.index[12:])
    evaluation.test(test, table.loc[table["part"] == "test", ["mos", "captions"]])
    assert searched[2:] == [sorted(texts)]
    known = RunEvaluation(SETTINGS, table, predictions, {0: "a", 1: "b", TEST: "c"})
    assert known.out_of_fold()["baseline"]["sentence"] == "a | b" and len(searched) == 3


def test_what_the_networks_did_not_predict_has_no_score(table, predictions, searched, shared_meteor):
    evaluation = RunEvaluation(SETTINGS, table, predictions, {})
    whole = evaluation.out_of_fold()
    networks = predictions[["photo_id", "fold", "caption"]].assign(mos=predictions["network"])
    report = evaluation.networks(networks, whole)
    assert report["mos"] == whole["members"]["network"] and report["baseline"] == whole["baseline"]
    assert evaluation.networks(networks.assign(mos=np.nan), whole)["mos"] is None
    captions_only = dataclasses.replace(SETTINGS, task="caption")
    without = networks.assign(mos=0.0)  # what the ensemble writes where no photo has a label to learn from
    report = RunEvaluation(captions_only, table, without, {}).out_of_fold()
    assert report["mos"] is None and report["caption"] and report["folds"][0]["mos"] is None
    mos_only = dataclasses.replace(SETTINGS, task="mos")
    report = RunEvaluation(mos_only, table, predictions, {}).out_of_fold()
    assert report["caption"] is None and report["baseline"]["caption"] is None and report["mos"]


def test_labels_of_the_test_photos_are_those_of_the_file_or_of_the_data_set(table, tmp_path):
    labels = run_report.test_labels(table, tmp_path / "none.csv")
    pd.testing.assert_frame_equal(labels, table.loc[table["part"] == "test", ["mos", "captions"]])
    (tmp_path / "labels.csv").write_text("img_name,mos,comments\np12,3.5,one\np12,3.5,two\np13,,three\nelse,1,x\n")
    labels = run_report.test_labels(table, tmp_path / "labels.csv")
    assert labels["captions"].tolist() == [("one", "two"), ("three",), (), ()]
    assert labels["mos"].tolist()[0] == 3.5 and labels["mos"].isna().tolist() == [False, True, True, True]
    unknown = table.assign(mos=np.nan, captions=[()] * 16)
    assert run_report.test_labels(unknown, tmp_path / "none.csv") is None


def test_labels_of_the_test_photos_are_found_in_another_spelling(table, tmp_path):
    names = ["caf\u00e9", "x 1", "IMG_1", "img_1"]
    table.index = pd.Index([*table.index[:12], *names], name="photo_id")
    file = tmp_path / "test_labels.csv"
    file.write_text("img_name,mos,comments\nx\u00a01,2,b\ncafe\u0301,1,a\nimg_1,4,d\nImg_1,,\nIMG_1,3,c\nq,9,z\n")
    labels = run_report.test_labels(table, file)
    assert labels["mos"].tolist() == [1, 2, 3, 4] and labels["captions"].tolist() == [("a",), ("b",), ("c",), ("d",)]

"""The report of an evaluation and its diagnostics."""

import json

import numpy as np
import pytest

from src.metrics.caption_scores import score_captions
from src.metrics.diagnostics import caption_diagnostics, diagnostic_warnings, mos_diagnostics
from src.metrics.report import caption_block, evaluation_report, mos_block, summary
from src.settings.schema import CaptionWeights


def test_a_report_holds_no_nan_and_warns_of_a_score_under_its_baseline(meteor):
    one = score_captions([["a nice photo"]], ["a nice photo"], meteor=meteor)
    block = caption_block(one, CaptionWeights(), 50, seed=0)
    assert block["interval"] is None and block["photos"] == 1 and block["bleu4"] < 0.1 < block["bleu3"]
    mos = mos_block(np.array([5.0, 5.0, 5.0]), np.array([1.0, 2.0, 3.0]), 50, seed=0)
    assert mos["plcc"] is None and mos["score"] == 0
    healthy = {"captions": None, "mos": None}
    report = evaluation_report(mos, block, {"mos": 0.5, "caption": None, "sentence": None}, healthy, ["a note"])
    json.dumps(report, allow_nan=False)
    note, warning = report["warnings"]
    assert note == "a note" and "MOS score 0.0000 is under its baseline 0.5000" in warning
    assert report["baseline"] == {"mos": 0.5, "caption": None, "sentence": None}


def test_what_cannot_be_measured_has_no_score_rather_than_zero():
    assert mos_block(np.array([]), np.array([]), 50, 0) is None
    assert mos_block(np.array([1.0, 2]), np.array([1.0, 2]), 50, 0) is None, "two photos always correlate"
    assert mos_block(np.array([1.0, 2, 3]), np.array([4.0, 4, 4]), 50, 0) is None, "constant labels"
    assert caption_block(None, CaptionWeights(), 50, 0) is None
    none = {"mos": None, "caption": None, "sentence": None}
    text = summary("a run", evaluation_report(None, None, none, {"captions": None, "mos": None}, []))
    assert text.count("not measured") == 2 and "ABOVE" not in text and "0." not in text


def test_a_caption_score_of_one_photo_is_not_held_against_its_baseline(meteor):
    block = caption_block(score_captions([["a nice photo"]], ["a photo"], meteor=meteor), CaptionWeights(), 50, seed=0)
    baseline, healthy = {"mos": None, "caption": 9.0, "sentence": "so it is"}, {"captions": None, "mos": None}
    report = evaluation_report(None, block, baseline, healthy, [])
    text = summary("a run", report)
    assert report["warnings"] == [] and "UNDER" not in text
    assert "constant sentence 9.0000, too few photos to compare" in text


@pytest.mark.parametrize(("baseline", "words"), [(0.2, "ABOVE ridge baseline 0.2000"), (0.99, "UNDER ridge baseline")])
def test_a_score_stands_beside_its_baseline_and_interval(baseline, words):
    truth = np.arange(9.0)
    mos = mos_block(truth + [0, 2, 0, -2, 0, 0, 3, 0, 0], truth, 50, seed=0)
    healthy = {"captions": None, "mos": None}
    report = evaluation_report(mos, None, {"mos": baseline, "caption": None, "sentence": None}, healthy, [])
    low, high = mos["interval"]
    text = summary("a run", report)
    assert f"{mos['score']:.4f} [{low:.4f}, {high:.4f}]   {words}" in text and "(9 photos)" in text
    assert ("WARNING: the MOS score" in text) == (baseline > mos["score"])


def test_diagnostics_warn_of_a_collapse():
    diagnostics = caption_diagnostics(["a  b", "a b", "a b", "c <unk> d e", ""])
    assert (
        diagnostics["distinct"] == 3
        and diagnostics["most_frequent"] == "a b"
        and diagnostics["most_frequent_share"] == 0.6
    )
    assert diagnostics["unk_share"] == 0.2 and diagnostics["empty"] == 1 and diagnostics["mean_words"] == 2.0
    warnings = " / ".join(diagnostic_warnings(diagnostics, mos_diagnostics([5.0, 5.01, 5.0], [1.0, 5.0, 9.0])))
    for sign in ("60% of the photos", "<unk>", "1 of 5 captions are empty", "2.0 words", "hardly vary"):
        assert sign in warnings
    assert "same caption" in diagnostic_warnings(caption_diagnostics(["x y z w"] * 3))[0]
    assert "same predicted MOS" in diagnostic_warnings(None, mos_diagnostics([5.0, 5.0], [1.0, 2.0]))[0]
    healthy = caption_diagnostics([f"a photo of number {i}" for i in range(9)])
    assert diagnostic_warnings(healthy, mos_diagnostics([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])) == []


def test_diagnostics_warn_of_repeats_and_endings():
    fine = [f"a photo of number {i}" for i in range(34)]
    broken = ["Giraffes giraffes, in a grassy area near and", "in a hat in a car.", "very, VERY nice", "a sea with."]
    diagnostics = caption_diagnostics(broken + [""])
    counts = {name: round(5 * diagnostics[name]) for name in ("adjacent_repeats", "repeated_pairs", "dangling")}
    assert counts == {"adjacent_repeats": 2, "repeated_pairs": 1, "dangling": 2}
    warnings = " / ".join(diagnostic_warnings(diagnostics))
    assert "40.0% of the captions say a word twice running / 20.0% of the captions say a pair" in warnings
    assert "40.0% of the captions break off" in warnings
    assert diagnostic_warnings(caption_diagnostics(fine + broken[2:3])) == [], "one in 35 is what people write, too"
    assert caption_diagnostics([])["dangling"] == 0.0

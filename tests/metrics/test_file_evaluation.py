"""Stand-alone evaluation: a file of predictions against a file of references."""

import json

import pytest

from src.base.errors import InputError
from src.metrics.file_evaluation import evaluate_files, pair, read_predictions, read_references
from src.settings.schema import MetricSettings

REFERENCES = """img_name,img_path,mos,comments
0213074526,./train/a.jpg,5.5,"a nice photo, with light"
b,./train/b.jpg,4,very dark and blurred
b,./train/b.jpg,4,the colours are too dark
c,./train/c.jpg,,null
d,./train/d.jpg,7.25,
e,./train/e.jpg,6.0,n/a
"""
PREDICTIONS = """img_name,mos,comments
b,4.5,dark and blurred
0213074526,5.0,a nice light
c,5,
e,6.5,a sharp photo
d,6.6,whatever
"""


@pytest.fixture
def write(tmp_path):
    def writer(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return writer


def test_pairs_follow_the_references_and_skip_blank_cells(write):
    pairs = pair(read_predictions(write("P.csv", PREDICTIONS)), read_references(write("R.csv", REFERENCES)))
    assert pairs.mos_truth.tolist() == [5.5, 4, 7.25, 6] and pairs.mos_pred.tolist() == [5, 4.5, 6.6, 6.5]
    assert pairs.candidates == ["a nice light", "dark and blurred", "a sharp photo"]
    assert pairs.references[1] == ["very dark and blurred", "the colours are too dark"]
    assert pairs.references[2] == ["n/a"], "only an empty cell is missing"
    assert pairs.notes == ["1 of 4 photos with a label have no predicted comment and are not scored"]


def test_a_byte_order_mark_and_blanks_in_the_header_are_tolerated(write):
    labels = read_references(write("R.csv", b"\xef\xbb\xbf" + REFERENCES.replace("mos,comm", " mos , comm").encode()))
    assert list(labels.mos) == ["0213074526", "b", "c", "d", "e"] and labels.mos["b"] == 4


BAD = {
    "empty": ("", "is empty"),
    "header only": ("img_name,mos\n", "no rows"),
    "no name column": ("name,mos\na,1\n", "column img_name is missing; found: name, mos"),
    "no label column": ("img_name,score\na,1\n", "neither column mos nor comments"),
    "doubled column": ("img_name,mos,mos\na,1,2\n", "column 'mos' is there twice"),
    "text for a number": ("img_name,mos\na,1\nb,good\n", "line 3: mos is 'good', not a number"),
    "infinite": ("img_name,mos\na,inf\n", "line 2: mos is 'inf'"),
    "nan": ("img_name,mos\na,nan\n", "line 2: mos is 'nan'"),
    "blank name": ("img_name,mos\n ,1\n", "line 2: img_name is blank"),
    "too many cells": ("img_name,mos\na,1,2\n", "line 2: 3 cells where the header has 2"),
    "open quote": ('img_name,comments\na,"never closed\n', "quotation mark that is not closed"),
    "huge field": ("img_name,comments\na," + "x" * 1_200_000 + "\n", "more than 1048576 characters"),
    "latin-1": ("img_name,comments\na,caf\xe9\n".encode("latin-1"), "not UTF-8"),
    "utf-16": ("img_name,comments\na,b\n".encode("utf-16"), "UTF-8"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_files_are_one_clear_line(write, kind):
    content, message = BAD[kind]
    with pytest.raises(InputError, match=message) as caught:
        read_references(write("R.csv", content))
    assert "R.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_doubled_predictions_and_two_mos_are_named(write):
    with pytest.raises(InputError, match=r"line 4: photo a is there already \(line 2\)"):
        read_predictions(write("P.csv", "img_name,mos\na,1\nb,2\na,1\n"))
    with pytest.raises(InputError, match="line 3: photo a has two different mos, 1 and 2"):
        read_references(write("R.csv", "img_name,mos\na,1\na,2\n"))
    with pytest.raises(InputError, match="cannot be read"):
        read_references("nowhere.csv")


def test_photos_of_one_file_only_are_counted_and_named(write):
    rows = "".join(f"p{i},1\n" for i in range(9))
    few, many = write("few.csv", "img_name,mos\np0,1\np1,1\n"), write("many.csv", "img_name,mos\n" + rows)
    with pytest.raises(InputError, match=r"7 photos of .*many.csv not in .*few.csv: p2, p3, p4, p5, p6, \.\.\."):
        pair(read_predictions(few), read_references(many))
    with pytest.raises(InputError, match="7 photos of .*many.csv not in"):
        pair(read_predictions(many), read_references(few))


def test_report_of_two_files_with_baseline(write, shared_meteor):
    predictions, references = write("P.csv", PREDICTIONS), write("R.csv", REFERENCES)
    out = evaluate_files(predictions, references, references, MetricSettings(bootstrap=100), 0)
    json.dumps(out, allow_nan=False)
    assert set(out) == {"mos", "caption", "baseline", "warnings"}
    assert set(out["mos"]) == {"plcc", "srcc", "score", "interval", "photos"} and out["mos"]["photos"] == 4
    names = {"bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "wer", "score", "interval", "photos"}
    assert set(out["caption"]) == names and out["caption"]["photos"] == 3
    assert out["baseline"]["mos"] is None and out["baseline"]["caption"] > 0 and out["baseline"]["sentence"]
    assert "not scored" in out["warnings"][0]


def test_a_block_without_any_label_is_null(write, shared_meteor):
    mos_only = write("M.csv", "img_name,mos,comments\na,1,\nb,2,\nc,3,\n")
    both = write("P.csv", "img_name,mos,comments\na,1,x\nb,2,y\nc,4,z\n")
    out = evaluate_files(both, mos_only, None, MetricSettings(bootstrap=100), 0)
    assert out["caption"] is None and out["mos"]["srcc"] == 1 and out["baseline"]["sentence"] is None
    words_only = write("C.csv", "img_name,comments\na,x y\nb,y z\nc,z x\n")
    out = evaluate_files(both, words_only, None, MetricSettings(bootstrap=100), 0)
    assert out["mos"] is None and out["caption"]["photos"] == 3

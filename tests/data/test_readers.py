"""The competition's CSVs become the one table, and every fault becomes one clear line."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.base.errors import InputError
from src.data.readers.common import clean_caption
from src.data.readers.registry import read_dataset
from src.data.table import COLUMNS, Rejection, load_table, make_table, save_table, write_rejections

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"
HEADER = "img_name,img_path,mos,comments\n"


@pytest.fixture
def folder(tmp_path):
    """A competition of three train photos and one test photo; the tests overwrite its CSVs."""
    for name in ("train/a.jpg", "train/b.jpg", "train/0213074526.jpg", "test/t.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    train(tmp_path, "a,./train/a.jpg,5.5,nice\nb,./train/b.jpg,,\n0213074526,./train/0213074526.jpg,3,null\n")
    (tmp_path / "test.csv").write_text("img_name,img_path\nt,./test/t.jpg\n")
    return tmp_path


def train(folder: Path, rows: str | bytes, header: str = HEADER) -> None:
    rows = rows.encode() if isinstance(rows, str) else rows
    (folder / "train.csv").write_bytes(header.encode() + rows)


def fault(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        read_dataset(folder, "dacon")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_table_of_a_small_competition(folder):
    frame, rejections = read_dataset(folder, "dacon")
    assert rejections == []
    assert tuple(frame.columns) == COLUMNS
    assert frame["photo_id"].tolist() == ["a", "b", "0213074526", "t"]
    assert frame["path"].tolist() == ["train/a.jpg", "train/b.jpg", "train/0213074526.jpg", "test/t.jpg"]
    np.testing.assert_array_equal(frame["mos"], [5.5, math.nan, 3, math.nan])
    assert frame["captions"].tolist() == [("nice",), (), ("null",), ()]
    assert frame["group"].tolist() == frame["photo_id"].tolist()
    assert frame["part"].tolist() == ["train"] * 3 + ["test"]


def test_rows_of_one_photo_become_its_captions_in_file_order(folder):
    rows = "a,train/a.jpg,5.50,second\nb,train/b.jpg,4,x\na,./train/a.jpg,5.5,first\n"
    train(folder, rows + "a,train/a.jpg,,n/a\na,train/a.jpg,5.5,first\n")
    frame, _ = read_dataset(folder, "dacon")
    assert frame["photo_id"].tolist() == ["a", "b", "t"]
    assert frame["captions"][0] == ("second", "first", "n/a")
    assert frame["mos"][0] == 5.5


def test_optional_group_column(folder):
    header = "img_name, img_path ,mos,comments,group\n"
    rows = "a,train/a.jpg,5,x,source 1\nb,train/b.jpg,4,y,source 1\n0213074526,train/0213074526.jpg,3,,\n"
    train(folder, rows, header)
    assert read_dataset(folder, "dacon")[0]["group"].tolist() == ["source 1", "source 1", "0213074526", "t"]


def test_white_space_in_captions_is_collapsed(folder):
    train(folder, 'a,train/a.jpg,5,"one\r\ntwo\x0bthree\u2028four  five "\nb,train/b.jpg,4, \t \n')
    frame, _ = read_dataset(folder, "dacon")
    assert frame["captions"][0] == ("one two three four five",)
    assert frame["captions"][1] == ()
    assert clean_caption("a\x85b\x1cc\rd\u00a0e") == "a b c d e"


def test_rows_that_cannot_be_used_are_listed_with_line_and_reason(folder):
    rows = [
        ("a", "train/a.jpg", "abc", "text in mos"),
        ("a", "train/a.jpg", "inf", "x"),
        ("a", "train/a.jpg", "nan", "x"),
        ("a", "train/a.jpg", "5,3", "x"),
        ("", "train/a.jpg", "5", "no name"),
        ("b", "/etc/passwd", "5", "absolute"),
        ("c", "train/../../x.jpg", "5", "climbs"),
        ("d", "C:\\x.jpg", "5", "windows"),
        ("e", "train/absent.jpg", "5", "absent"),
        ("f", "train", "5", "folder"),
        ("g", "", "5", "blank"),
        ("=1+1", "train/b.jpg", "5", "kept, a name like any other"),
    ]
    with open(folder / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER.strip().split(","), *rows])
    frame, rejections = read_dataset(folder, "dacon")
    assert frame["photo_id"].tolist() == ["=1+1", "t"]
    reasons = {int(r.where.removeprefix("train.csv, line ")): r.reason for r in rejections}
    assert sorted(reasons) == list(range(2, 13))
    expected = ["not a finite number"] * 4 + ["img_name is blank", "absolute", "climbs", "absolute"]
    expected += ["no such file", "not a file", "blank"]
    for line, part in enumerate(expected, start=2):
        assert part in reasons[line], (line, reasons[line])


def test_a_test_photo_is_never_dropped(folder):
    (folder / "test.csv").write_text("img_name,img_path\nt,./test/t.jpg\nu,test/absent.jpg\nv,/etc/passwd\n")
    frame, rejections = read_dataset(folder, "dacon")
    assert frame["photo_id"].tolist()[3:] == ["t", "u", "v"]
    assert frame["path"].tolist()[4:] == ["", ""]
    assert [(r.where, r.photo_id) for r in rejections] == [("test.csv, line 3", "u"), ("test.csv, line 4", "v")]


def test_symbolic_link_to_a_folder_of_photos(folder):
    os.rename(folder / "train", folder / "elsewhere")
    (folder / "train").symlink_to(folder / "elsewhere")
    assert read_dataset(folder, "dacon")[1] == []


@pytest.mark.parametrize(
    "rows, parts",
    [
        ("a,train/a.jpg,5,x\nb,train/b.jpg,1,\na,train/a.jpg,6,y\n", ["photo a", "5.0 (line 2)", "6.0 (line 4)"]),
        ("a,train/a.jpg,5,x\na,train/b.jpg,5,x\n", ["photo a", "two paths", "train/a.jpg", "train/b.jpg"]),
        ("t,test/t.jpg,5,x\n", ["1 photos are in train.csv and in test.csv: t"]),
        ("", ["lists no photo"]),
        ("a,train/a.jpg,5,x,y\n", ["line 2", "5 cells", "4"]),
        ('a,train/a.jpg,5,"never closed\nb,train/b.jpg,5,x\n', ["line 2", "quotation mark"]),
        ('a,train/a.jpg,5,"x" y\n', ["line 2", "quotation mark"]),
        (f"a,train/a.jpg,5,{'x' * (2 << 20)}\n", ["line 2", "field larger than"]),
        ("a,train/a.jpg,5,caf\u00e9\n".encode("latin-1"), ["train.csv, line 2", "not UTF-8", "0xe9"]),
        (b"a,train/a.jpg,5,\0\n", ["train.csv, line 2", "NUL"]),
    ],
)
def test_a_broken_list_is_one_clear_line(folder, rows, parts):
    train(folder, rows)
    message = fault(folder)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "header, parts",
    [
        ("img_name,img_path,note,x\n", ["mos or comments is missing", "found: img_name, img_path, note, x"]),
        ("img_name;img_path;mos;comments\n", ["missing", "separated by commas"]),
        ("img_name,img_path,mos,comments,mos\n", ["'mos' is there twice"]),
    ],
)
def test_a_broken_header_names_the_columns(folder, header, parts):
    train(folder, "a,train/a.jpg,5,x\n", header)
    message = fault(folder)
    assert all(part in message for part in ["train.csv", *parts]), message


def test_encodings(folder):
    content = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text("\ufeff" + content, encoding="utf-8")
    assert read_dataset(folder, "dacon")[0]["photo_id"][0] == "a"
    (folder / "train.csv").write_text(content, encoding="utf-16")
    assert "UTF-8" in fault(folder)


def test_absent_files(folder):
    (folder / "test.csv").unlink()
    assert "test.csv is absent" in fault(folder)
    assert "is not a folder" in fault(folder / "nothing")


def test_table_round_trip_is_exact(tmp_path):
    frame = make_table(
        [
            ("0213074526", "a/b.jpg", 0.1 + 0.2, ('say "x",', "null", "a\u2028b"), "g", "train"),
            ("t", "", math.nan, (), "t", "test"),
        ]
    )
    save_table(frame, tmp_path / "photos.jsonl")
    pd.testing.assert_frame_equal(load_table(tmp_path / "photos.jsonl"), frame, check_exact=True)
    save_table(make_table([]), tmp_path / "none.jsonl")
    assert len(load_table(tmp_path / "none.jsonl")) == 0
    (tmp_path / "none.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="not a table"):
        load_table(tmp_path / "none.jsonl")


def test_rejections_are_written_as_csv(tmp_path):
    write_rejections([Rejection("train.csv, line 7", "a", "x, y.jpg", 'says "no"')], tmp_path / "rejected.csv")
    with open(tmp_path / "rejected.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["where", "photo_id", "path", "reason"],
            ["train.csv, line 7", "a", "x, y.jpg", 'says "no"'],
        ]


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not here")
def test_real_photos():
    frame, rejections = read_dataset(REAL, "dacon")
    parts = frame["part"].value_counts()
    assert (parts["train"], parts["test"], rejections) == (2353, 638, [])
    assert frame["mos"].notna().sum() == 1600
    assert frame.loc[frame["mos"].isna() & (frame["part"] == "train"), "captions"].map(len).min() >= 4

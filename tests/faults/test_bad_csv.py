"""Label files that are broken in every way stop preprocess with one clear line; odd ones go through."""

import json
import os
import shutil
from pathlib import Path

import pytest

from src import preprocess
from tests.helpers.bad_input import SMALL, exit_code, refused

HEADER = b"img_name,img_path,mos,comments\n"
ROWS = b"a,train/a.jpg,5,nice\nb,train/b.jpg,4,dark\n"


def with_rows(*rows: str) -> bytes:
    return HEADER + "".join(row + "\n" for row in rows).encode()


# what is in train.csv, and the words of the line: what, where, what to do
BROKEN = {
    "UTF-16": ((HEADER + ROWS).decode().encode("utf-16"), "NUL byte", "train.csv, line 1", "save it as UTF-8"),
    "UTF-16 without mark": (ROWS.decode().encode("utf-16-be"), "NUL byte", "train.csv, line 1", "save it as UTF-8"),
    "Latin-1": (HEADER + "a,train/a.jpg,5,café\n".encode("latin-1"), "0xe9", "line 2", "save it as UTF-8"),
    "CP949": (HEADER + ROWS + "c,train/c.jpg,5,멋진\n".encode("cp949"), "not UTF-8", "line 4", "save it as UTF-8"),
    "cut inside a letter": (HEADER + ROWS + "c,train/c.jpg,5,é".encode()[:-1], "not UTF-8", "line 4", "save it"),
    "lone surrogate": (HEADER + b"a,train/a.jpg,5,\xed\xa0\x80\n", "not UTF-8", "line 2", "save it as UTF-8"),
    "NUL byte": (HEADER + ROWS + b"c,train/c.jpg,5,a\0b\n", "NUL byte", "line 4", "save it"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06\0", "NUL byte", "train.csv, line 1", "save it as UTF-8"),
    "a web page": (b"<!DOCTYPE html>\n<html>404</html>\n", "img_name", "train.csv", "separated by commas?"),
    "empty": (b"", "is empty", "train.csv", "expected the columns img_name, img_path, mos, comments"),
    "byte order mark alone": (b"\xef\xbb\xbf", "is empty", "train.csv", "expected the columns"),
    "header only": (HEADER, "lists no photo", "train.csv", "a header only"),
    "no header": (ROWS, "column img_name", "train.csv", "found: a, train/a.jpg, 5, nice"),
    "no labels": (
        b"img_name,img_path,x\na,train/a.jpg,5\n",
        "column mos or comments is missing",
        "train.csv",
        "found: ",
    ),
    "doubled column": (HEADER[:-1] + b",mos\na,train/a.jpg,5,x,5\n", "'mos' is there twice", "train.csv", "found: "),
    "columns in capitals": (HEADER.upper() + ROWS, "img_name", "train.csv", "found: IMG_NAME"),
    "semicolons": ((HEADER + ROWS).replace(b",", b";"), "is missing", "train.csv", "separated by commas?"),
    "tabs": ((HEADER + ROWS).replace(b",", b"\t"), "is missing", "train.csv", "separated by commas?"),
    "open quotation mark": (HEADER + b'a,train/a.jpg,5,"x\n' + ROWS, "not closed", "line 2", "quotation mark"),
    "stray quotation mark": (HEADER + b'a,train/a.jpg,5,"x" y\n', "not doubled", "line 2", "quotation mark"),
    "unquoted comma": (HEADER + b"a,train/a.jpg,5,nice, but dark\n", "5 cells", "line 2", "in quotation marks"),
    "too few cells": (HEADER + ROWS + b"c,train/c.jpg\n", "2 cells where the header has 4", "line 4", "put"),
    "huge cell": (HEADER + b"a,train/a.jpg,5," + b"x" * 1_200_000, "more than 1048576 characters", "line 2", "cell"),
    "text in mos": (with_rows("a,train/a.jpg,good,x"), "'good' is not a finite number", "train.csv, line 2", "skip"),
    "decimal comma": (with_rows('a,train/a.jpg,"5,3",x'), "'5,3' is not a finite", "train.csv, line 2", "mend them"),
    "mos not finite": (with_rows("a,train/a.jpg,nan,x"), "'nan' is not a finite", "train.csv, line 2", "rejected.csv"),
    "mos without end": (with_rows("a,train/a.jpg,1e400,x"), "'1e400' is not", "train.csv, line 2", "rejected.csv"),
    "blank name": (with_rows(" ,train/a.jpg,5,x"), "img_name is blank", "train.csv, line 2", "mend them"),
    "blank path": (with_rows("a,,5,x"), "img_path is blank", "train.csv, line 2", "mend them"),
    "two scores": (with_rows("a,train/a.jpg,5,x", "a,train/a.jpg,6,y"), "two different MOS", "line 3", "correct one"),
    "two paths": (with_rows("a,train/a.jpg,5,x", "a,train/b.jpg,5,y"), "two paths", "line 3", "a name of its own"),
    "photos of test.csv": (with_rows("x,test/x.jpg,5,x"), "in train.csv and in test.csv: x", "data", "keep one"),
    "huge path": (with_rows("a," + "x/" * 300_000 + ",5,x"), "name too long", "train.csv, line 2", "mend them"),
    "huge name": (with_rows("a" * 900_000 + ",train/none.jpg,5,x"), "no such file", "train.csv, line 2", "mend them"),
    "many lines in a cell": (with_rows('"a\n\n\nb",train/none.jpg,5,x'), "no such file", "line 2", "mend them"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_train_csv_stops_preprocess(kind, competition_copy, capfd):
    content, *words = BROKEN[kind]
    (competition_copy / "data" / "train.csv").write_bytes(content)
    refused(capfd, preprocess, SMALL, tuple(words))


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_a_table_that_never_ends_stops_preprocess(name, put, competition_copy, capfd):
    path = competition_copy / "data" / name
    path.unlink()
    put(path)
    refused(capfd, preprocess, SMALL, (f"data/{name} cannot be read (a pipe or device in place of a file)", "check"))


def test_a_broken_test_csv_stops_preprocess(competition_copy, capfd):
    file = competition_copy / "data" / "test.csv"
    file.write_text("img_name,img_path\n ,test/x.jpg\n")
    refused(capfd, preprocess, SMALL, ("img_name is blank", "test.csv, line 2", "cannot be answered"))
    file.write_text("img_name\nx\n")
    refused(capfd, preprocess, SMALL, ("img_path is missing", "test.csv", "found: img_name"))
    file.unlink()
    refused(capfd, preprocess, SMALL, ("is absent", "test.csv", "put it there"))
    file.mkdir()
    refused(capfd, preprocess, SMALL, ("is a folder", "test.csv", "expected a CSV file"))


# what is in train.csv, the task, and the words of the line
NO_LABELS = {
    "no column of captions": (
        "a,train/a.jpg,5,\nb,train/b.jpg,4,",
        "both",
        "captions: data/train.csv has no column comments",
    ),
    "captions asked for": ("a,train/a.jpg,5,\nb,train/b.jpg,4,", "caption", "task=mos works with these data"),
    "no column of MOS": ("a,train/a.jpg,,x\nb,train/b.jpg,,y", "both", "MOS: data/train.csv has no column mos"),
    "MOS asked for": ("a,train/a.jpg,,x\nb,train/b.jpg,,y", "mos", "task=caption works with these data"),
    "blank captions": (
        "a,train/a.jpg,5, \nb,train/b.jpg,4,\t",
        "both",
        "captions: no photo for training that can be used",
    ),
    "one MOS and no caption": ("a,train/a.jpg,5,\nb,train/b.jpg,,", "both", "no task works with these data"),
    "no label at all": ("a,train/a.jpg,,\nb,train/b.jpg,,", "mos", "no task works with these data"),
    "emoji": ("a,train/a.jpg,5,😍😍 🔥\nb,train/b.jpg,4,❤️", "both", "none of the 2 holds a letter or digit"),
    "punctuation": ("a,train/a.jpg,5,!!! ... ?\nb,train/b.jpg,4,—", "caption", "such as '!!! ... ?' of photo a"),
    "letters for show": ("a,train/a.jpg,5,𝓷𝓲𝓬𝓮\nb,train/b.jpg,4,🅰️", "both", "such as '𝓷𝓲𝓬𝓮' of photo a"),
    "signs of other scripts": (
        "a,train/a.jpg,5,。。。\nb,train/b.jpg,4,…「」",
        "both",
        "only emoji, punctuation or the like",
    ),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_a_task_without_labels_stops_preprocess(kind, competition_copy, capfd):
    """Before photos are decoded, and again where another task did so."""
    rows, task, words = NO_LABELS[kind]
    table = [row.split(",") for row in ["img_name,img_path,mos,comments", *rows.split("\n")]]
    absent = {"no column of captions": 3, "captions asked for": 3, "no column of MOS": 2, "MOS asked for": 2}.get(kind)
    lines = [",".join(cell for column, cell in enumerate(cells) if column != absent) + "\n" for cells in table]
    (competition_copy / "data" / "train.csv").write_text("".join(lines))
    shutil.rmtree(competition_copy / "runs")
    line = refused(capfd, preprocess, [*SMALL, f"task={task}"], (f"task={task} needs", words))
    assert not list(Path("runs").glob("cache/photos-*/photos.jsonl"))
    for works in (name for name in ("mos", "caption") if f"task={name} works" in line):
        assert exit_code(preprocess, *SMALL, f"task={works}") == 0
        assert refused(capfd, preprocess, [*SMALL, f"task={task}"], (f"task={task} needs",)) == line


def test_captions_without_a_word_are_left_out_and_counted(competition_copy, capsys):
    captions = ["😍", "a nice photo 😍", "?!", "…", "a", "«»"]
    rows = [f"{name},train/{name}.jpg,{i},{captions[i]}" for i, name in enumerate("abcdef")]
    (competition_copy / "data" / "train.csv").write_text(with_rows(*rows, "a,train/a.jpg,0,멋진 사진").decode())
    for _ in range(2):  # also where the photos are there
        assert exit_code(preprocess, *SMALL) == 0
        line = (
            "preprocess: 4 captions without a letter or digit are left out (only emoji, punctuation or the like, such"
        )
        assert f"{line} as '😍' of photo a)" in capsys.readouterr().out
    folder = max(competition_copy.glob("runs/cache/photos-*"), key=lambda path: path.stat().st_mtime_ns)
    kept = [json.loads(row)["captions"] for row in rows_of(folder)]
    assert kept[:6] == [["멋진 사진"], ["a nice photo 😍"], [], [], ["a"], []]
    statistics = json.loads((folder / "statistics.json").read_text())["captions"]
    assert statistics["count"] == 3 and statistics["wordless"] == [["a", "😍"], ["c", "?!"], ["d", "…"], ["f", "«»"]]


def test_a_vocabulary_without_a_word_is_said(competition_copy, capsys):
    assert exit_code(preprocess, *SMALL, "task=caption", "vocabulary.minimum_count=9999") == 0
    assert "no word stands 9999 times in the training captions" in capsys.readouterr().out


def test_names_that_look_the_same_are_said(competition_copy, capsys):
    names = ["caf\u00e9", "cafe\u0301", "IMG_1", "img_1", "\u0430", "b\u00a0c"]  # the fifth is Cyrillic
    rows = [f"{name},train/{'abcdef'[i]}.jpg,{i},x" for i, name in enumerate(names)]
    (competition_copy / "data" / "train.csv").write_text(with_rows(*rows).decode())
    tests = "img_name,img_path\na,test/x.jpg\na,./test//x.jpg\nb c,test/y.jpg\n"  # of a, the same path twice
    (competition_copy / "data" / "test.csv").write_text(tests)
    assert exit_code(preprocess, *SMALL) == 0
    line = r"4 names are written in several ways, such as 'caf\xe9' and 'cafe\u0301': they count as different photos"
    assert line in capsys.readouterr().out


PLAIN = HEADER + b"a,./train/a.jpg,5.5,nice\nb,./train/b.jpg,4.5,dark\n"
# what is in train.csv, and the name, MOS and captions that are to be read for the first photo
ODD = {
    "byte order mark": (b"\xef\xbb\xbf" + PLAIN, "a", 5.5, ["nice"]),
    "Windows line ends": (PLAIN.replace(b"\n", b"\r\n"), "a", 5.5, ["nice"]),
    "old Macintosh line ends": (PLAIN.replace(b"\n", b"\r"), "a", 5.5, ["nice"]),
    "no last line end": (PLAIN.rstrip(), "a", 5.5, ["nice"]),
    "empty lines": (PLAIN.replace(b"\n", b"\n\n"), "a", 5.5, ["nice"]),
    "other columns in another order": (
        b',comments,mos,img_path,"img_name",note\n0,nice,5.5,train/a.jpg,a,\n1,dark,4.5,train/b.jpg,b,!\n',
        "a",
        5.5,
        ["nice"],
    ),
    "a formula as name": (PLAIN.replace(b"a,", b"=1+1,", 1), "=1+1", 5.5, ["nice"]),
    "digits as name": (PLAIN.replace(b"a,", b"0213074526,", 1), "0213074526", 5.5, ["nice"]),
    "a name with comma and quotes": (PLAIN.replace(b"a,", b'"a, ""b""",', 1), 'a, "b"', 5.5, ["nice"]),
    "a name like a missing value": (PLAIN.replace(b"a,", b"NaN,", 1), "NaN", 5.5, ["nice"]),
    "a caption like a missing value": (PLAIN.replace(b"nice", b"null"), "a", 5.5, ["null"]),
    "a caption of several lines": (PLAIN.replace(b"nice", b'"one\r\ntwo\n\nthree"'), "a", 5.5, ["one two three"]),
    "doubled rows": (PLAIN + PLAIN[len(HEADER) :], "a", 5.5, ["nice"]),
    "other scripts": (PLAIN.replace(b"nice", "멋진 사진 👍".encode()), "a", 5.5, ["멋진 사진 👍"]),
    "no score": (PLAIN.replace(b"5.5", b""), "a", None, ["nice"]),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_train_csv_is_read_rightly(kind, competition_copy, capfd):
    content, name, mos, captions = ODD[kind]
    shutil.rmtree(competition_copy / "runs")
    (competition_copy / "data" / "train.csv").write_bytes(content)
    task = "both" if mos else "caption"  # one score left over teaches nothing
    assert exit_code(preprocess, *SMALL, f"task={task}") == 0
    (folder,) = competition_copy.glob("runs/cache/photos-*")
    first = json.loads(rows_of(folder)[0])
    assert (first["photo_id"], first["mos"], first["captions"]) == (name, mos, captions)
    assert len(rows_of(folder)) == 5


def rows_of(folder: Path) -> list[str]:
    return (folder / "photos.jsonl").read_text(encoding="utf-8").split("\n")[:-1]

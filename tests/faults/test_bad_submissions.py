"""Wrong predictions, submissions and sample_submission.csv are refused with one clear line, and nothing is written."""

from pathlib import Path

import pandas as pd
import pytest

from src import evaluate, submit
from src.base.files import read_json
from src.submission.form import read_form, write_submission
from tests.helpers.bad_input import exit_code, hurry, refused, small_competition


@pytest.fixture
def place(workplace, monkeypatch):
    """A folder with a small competition, whose sample is a valid submission."""
    hurry(monkeypatch)
    small_competition(workplace / "data")
    return workplace


RIGHT = "img_name,mos,comments\na,1,x\nb,2,y\nc,3,z\n"
# predictions, references, and words of the error
PAIRS = {
    "empty": (b"", RIGHT, "P.csv is empty", "expected the columns img_name"),
    "header only": (b"img_name,mos\n", RIGHT, "P.csv has a header but no rows", "one row per photo"),
    "not UTF-8": ("img_name,comments\na,café\n".encode("latin-1"), RIGHT, "P.csv, line 2", "save it as UTF-8"),
    "a photo": (b"\xff\xd8\xff\xe0\0\x10JFIF", RIGHT, "P.csv, line 1", "NUL byte"),
    "no name": (b"photo,mos\na,1\n", RIGHT, "P.csv: column img_name is missing", "found: photo, mos"),
    "no prediction": (b"img_name,score\na,1\n", RIGHT, "P.csv has neither column mos nor comments", "columns are"),
    "a photo missing": (RIGHT[:-6].encode(), RIGHT, "1 photo of R.csv not in P.csv: c", "the same photos"),
    "a photo too many": (RIGHT.encode() + b"d,4,x\n", RIGHT, "1 photo of P.csv not in R.csv: d", "the same photos"),
    "a photo twice": (RIGHT.encode() + b"a,1,x\n", RIGHT, "P.csv, line 5: photo a", "keep one"),
    "text for a score": (b"img_name,mos\na,good\n", RIGHT, "P.csv, line 2: mos is 'good'", "correct it"),
    "no number": (b"img_name,mos\na,nan\n", RIGHT, "P.csv, line 2: mos is 'nan'", "correct it"),
    "references with two scores": (RIGHT.encode(), RIGHT + "a,2,x\n", "R.csv, line 5: photo a", "keep one"),
    "references that are empty": (RIGHT.encode(), "", "R.csv is empty", "expected the columns"),
    "nothing in common": (b"img_name,mos\na,1\n", "img_name,comments\na,x\n", "nothing to score", "columns"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_bad_predictions_are_not_scored(kind, place, capfd):
    predictions, references, *words = PAIRS[kind]
    Path("P.csv").write_bytes(predictions)
    Path("R.csv").write_text(references)
    Path("report.json").write_text("kept\n")
    arguments = ["--predictions", "P.csv", "--references", "R.csv", "--json", "report.json"]
    refused(capfd, evaluate, arguments, tuple(words))


def test_files_of_the_evaluation_that_cannot_be_opened(place, capfd):
    Path("P.csv").write_text("img_name,mos\na,1\nb,2\nc,4\n")
    Path("folder").mkdir()
    Path("locked").mkdir(mode=0o555)
    both = ["--predictions", "P.csv", "--references"]
    refused(capfd, evaluate, [*both, "R.csv"], ("R.csv cannot be read (No such file", "check the path"))
    refused(capfd, evaluate, [*both, "folder"], ("folder is a folder", "expected a CSV file"))
    refused(capfd, evaluate, [*both, "P.csv", "--train", "T.csv"], ("T.csv cannot be read", "check the path"))
    refused(capfd, evaluate, [*both, "P.csv", "--json", "folder"], ("folder: a folder is where a file", "move"))
    refused(capfd, evaluate, [*both, "P.csv", "--json", "P.csv/x"], ("P.csv", "a file is where a folder is needed"))
    refused(capfd, evaluate, [*both, "P.csv", "--json", "locked/x"], ("locked/x", "permission denied"))
    Path("P.csv").chmod(0)
    refused(capfd, evaluate, [*both, "P.csv"], ("P.csv cannot be read (Permission denied)", "who may read it"))


def cell(column: int, text: str):
    """Puts a text into a column of the second photo."""

    def change(rows: list[str]) -> list[str]:
        cells = rows[2].split(",", 2)
        cells[column] = text
        return [*rows[:2], ",".join(cells), *rows[3:]]

    return change


# a change of the lines of a valid submission, and words of the error
SUBMISSIONS = {
    "other order": (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "the rows are in another order"),
    "a row missing": (lambda rows: rows[:-1], "2 rows, not 3; 1 photos missing: z"),
    "a row twice": (lambda rows: [*rows, rows[1]], "4 rows, not 3; 1 photos twice: x"),
    "a photo of elsewhere": (cell(0, "elsewhere"), "1 photos that are not in the test set: elsewhere"),
    "no number": (cell(1, "nan"), "(no finite number)"),
    "infinite": (cell(1, "-inf"), "(no finite number)"),
    "text for a score": (cell(1, "good"), "(no finite number)"),
    "Python's own way to write a number": (cell(1, "0_5.0"), "(no finite number)"),
    "a blank score": (cell(1, ""), "(no finite number)"),
    "a score out of range": (cell(1, "99"), "outside the labels' range"),
    "<unk>": (cell(2, "a <unk> photo"), "1 captions with <unk>"),
    "a blank caption": (cell(2, " "), "1 empty captions"),
    "columns in another order": (lambda rows: ["img_name,comments,mos", *rows[1:]], "columns are img_name, comments"),
    "a column too many": (lambda rows: ["," + row for row in rows], "columns are"),
    "a column missing": (lambda rows: ["img_name,mos", *(f"{n},5" for n in "ab")], "column comments is missing"),
    "header only": (lambda rows: rows[:1], "0 rows, not 3; 3 photos missing: x, y, z"),
    "empty": (lambda rows: [], "is empty; expected the columns"),
    "not text": (lambda rows: [rows[0], "\0"], "a NUL byte"),
}


@pytest.mark.parametrize("kind", SUBMISSIONS)
def test_a_bad_submission_fails_its_check(kind, place, capfd):
    change, what = SUBMISSIONS[kind]
    rows = change(Path("data/sample_submission.csv").read_text().splitlines())
    Path("mine.csv").write_text("".join(row + "\n" for row in rows))
    refused(capfd, submit, ["--check", "mine.csv", "data.root=data"], ("mine.csv", what))


FORMS = {
    "other photos": (cell(0, "elsewhere"), "do not list the same photos (2 differ, such as elsewhere, y)"),
    "a photo missing": (lambda rows: rows[:-1], "do not list the same photos (1 differ"),
    "a photo twice": (lambda rows: [*rows, rows[1]], "do not list the same photos (1 differ, such as x)"),
    "header only": (lambda rows: rows[:1], "do not list the same photos (3 differ"),
    "no column to fill in": (lambda rows: [row.partition(",")[0] for row in rows], "column mos or comments is missing"),
    "two columns without a name": (lambda rows: [f",,{row}" for row in rows], "column '' is there twice"),
    "empty": (lambda rows: [], "is empty; expected the columns img_name, mos, comments"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_a_wrong_sample_submission_is_refused(kind, place, capfd):
    change, what = FORMS[kind]
    sample = Path("data/sample_submission.csv")
    rows = sample.read_text().splitlines()
    Path("mine.csv").write_text("".join(row + "\n" for row in rows))
    sample.write_text("".join(row + "\n" for row in change(rows)))
    refused(capfd, submit, ["--check", "mine.csv", "data.root=data"], (str(sample), what))


GIVEN = {
    "a running id": ("id", ["0", "1", "2"]),
    "an index without a name": ("", ["0", "1", "2"]),
    "text": ("Usage", ["Public", "", "a, b"]),
    "numbers": ("weight", ["1.50", "007", " 1e5"]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_the_cells_that_the_form_gives_are_checked(kind, place, capfd):
    column, cells = GIVEN[kind]
    sample = pd.read_csv("data/sample_submission.csv")
    sample.insert(0, column, cells)
    sample.to_csv("data/sample_submission.csv", index=False)
    sample.to_csv("mine.csv", index=False)
    check = ["--check", "mine.csv", "data.root=data"]
    assert exit_code(submit, *check) == 0
    sample.assign(**{column: cells[::-1]}).to_csv("mine.csv", index=False)
    words = (
        f"2 cells of column {column or 'without a name'} that are not the form's: x ('{cells[2]}', not '{cells[0]}')"
    )
    refused(capfd, submit, check, ("mine.csv", words, f"z ('{cells[0]}', not '{cells[2]}')"))
    sample.assign(**{column: ""}).to_csv("mine.csv", index=False)
    refused(capfd, submit, check, (f"x ('', not '{cells[0]}')",))
    sample.drop(columns=column).to_csv("mine.csv", index=False)
    refused(capfd, submit, check, (f"columns are img_name, mos, comments, not {column}, img_name, mos",))


# how test.csv, the form and a submission spell the names of three photos
NAMES = {
    "NFC and NFD": (["caf\u00e9", "y", "z"], ["cafe\u0301", "y", "z"]),
    "full width": (["x1", "y", "z"], ["\uff58\uff11", "y", "z"]),
    "invisible characters": (["x", "y z", "z"], ["x\u200b", "y\u00a0z", "\ufeffz"]),
    "another case, beside its double": (["IMG_1", "img_1", "z"], ["IMG_1", "img_1", "Z"]),
    "blanks at the end": (["x", "y", "z"], ["x ", " y", "z\u3000"]),
    "dashes": (["x-1", "y", "z"], ["x\u20131", "y", "z"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_in_another_spelling_are_found_or_said(kind, place, capfd):
    tested, formed = NAMES[kind]
    test = "".join(f"{name},test/{'xyz'[i]}.jpg\n" for i, name in enumerate(tested))
    Path("data/test.csv").write_text("img_name,img_path\n" + test)
    sample = "img_name,mos,comments\n" + "".join(f"{name},5,x\n" for name in formed)
    Path("data/sample_submission.csv").write_text(sample)
    predictions = pd.DataFrame({"photo_id": tested[::-1], "mos": [3.5, 4.5, 5.5], "caption": ["c", "b", "a"]})
    predictions.to_csv("predictions.csv", index=False)
    write_submission(Path("mine.csv"), read_form(Path("data"), "dacon", "both"), Path("predictions.csv"))
    mine = pd.read_csv("mine.csv", keep_default_na=False)
    assert mine.to_numpy().tolist() == [[name, 5.5 - i, "abc"[i]] for i, name in enumerate(formed)]
    check = ["--check", "mine.csv", "data.root=data"]
    assert exit_code(submit, *check) == 0
    mine.assign(img_name=tested).to_csv("mine.csv", index=False)
    odd = [f"{ascii(name)} for {ascii(right)}" for name, right in zip(tested, formed, strict=True) if name != right]
    refused(capfd, submit, check, (f"{len(odd)} photos spelled otherwise: {', '.join(odd)}",))


def test_a_name_that_looks_like_two_photos_is_said(place, capfd):
    Path("data/test.csv").write_text("img_name,img_path\nx1,test/x.jpg\nX1,test/y.jpg\nz,test/z.jpg\n")
    Path("data/sample_submission.csv").write_text("img_name,mos,comments\n\uff58\uff11,5,x\nX\uff11,5,x\nz,5,x\n")
    words = r"the same photos (4 differ, such as '\uff58\uff11', 'X\uff11', X1, x1)"
    refused(capfd, submit, ["--check", "any.csv", "data.root=data"], (words,))


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "blanks at the end"])
def test_predictions_are_scored_where_the_references_spell_names_otherwise(kind, place, capfd):
    theirs, ours = NAMES[kind]
    for file, names in (("P.csv", ours), ("R.csv", theirs[::-1])):
        rows = "".join(f"{name},{(ours if names is ours else theirs).index(name)}\n" for name in names)
        Path(file).write_text("img_name,mos\n" + rows)
    arguments = ["--predictions", "P.csv", "--references", "R.csv", "--json", "report.json"]
    assert exit_code(evaluate, *arguments) == 0
    assert read_json(Path("report.json"))["mos"]["srcc"] == pytest.approx(1)
    Path("R.csv").write_text(Path("R.csv").read_text().replace(f"\n{theirs[2]},", "\nze\u0301ro,"))
    words = "1 photo of P.csv not in R.csv: " + (ascii(ours[2]) if not ours[2].isascii() else ours[2])
    refused(capfd, evaluate, arguments, (words, "both files must hold the same photos"))


def test_a_submission_with_odd_names_and_numbers_passes(place):
    """A byte order mark, Windows line ends, a name like a formula and a score in another notation are no faults."""
    for file in ("test.csv", "sample_submission.csv"):
        path = Path("data", file)
        path.write_text(path.read_text().replace("\nx,", "\n=1+1,"))
    text = Path("data/sample_submission.csv").read_text().replace("5.0", "5.5e0", 1).replace("\n", "\r\n")
    Path("mine.csv").write_bytes(("\ufeff" + text).encode())
    assert exit_code(submit, "--check", "mine.csv", "data.root=data") == 0

"""Wrong predictions, submissions and sample_submission.csv are refused with one clear line, and nothing is written."""

from pathlib import Path

import pytest

from src import evaluate, submit
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
    "a column missing": (lambda rows: [row.rpartition(",")[0] for row in rows], "column comments is missing"),
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


def test_a_submission_with_odd_names_and_numbers_passes(place):
    """A byte order mark, Windows line ends, a name like a formula and a score in another notation are no faults."""
    for file in ("test.csv", "sample_submission.csv"):
        path = Path("data", file)
        path.write_text(path.read_text().replace("\nx,", "\n=1+1,"))
    text = Path("data/sample_submission.csv").read_text().replace("5.0", "5.5e0", 1).replace("\n", "\r\n")
    Path("mine.csv").write_bytes(("\ufeff" + text).encode())
    assert exit_code(submit, "--check", "mine.csv", "data.root=data") == 0

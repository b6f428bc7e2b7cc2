"""A submission has the organiser's form whatever the captions hold, and what the user wrote in the log stays."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from src.base.errors import InputError
from src.submission.form import ANSWERS, NAME, Form, check_submission, write_submission
from src.submission.log import log_submission

COLUMNS = (NAME, *ANSWERS)
NAMES = ("0213074526", "b", "c", "d")
CAPTIONS = ["plain", 'with "quotes", commas', "two\nlines", "null"]
TABLE = pd.DataFrame({"photo_id": NAMES[::-1], "mos": [1.00005, 2, 9.99996, 4.5], "caption": CAPTIONS[::-1]})


@pytest.fixture
def predictions(tmp_path):
    TABLE.to_csv(tmp_path / "test.csv", index=False)
    return tmp_path / "test.csv"


@pytest.mark.parametrize("columns", [COLUMNS, ("img_name", "comments"), ("comments", "img_name", "extra", "mos")])
def test_the_form_is_filled_in_as_the_csv_module_would(columns, predictions, tmp_path):
    rows = TABLE.set_index("photo_id")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for name in NAMES:
        cells = {"img_name": name, "mos": f"{rows['mos'][name]:.4f}", "comments": rows["caption"][name]}
        cells["extra"] = f"{name} of the form, 1.50"
        writer.writerow([cells[column] for column in columns])
    given = {"extra": tuple(f"{name} of the form, 1.50" for name in NAMES)} if "extra" in columns else {}
    form = Form(columns, NAMES, 1.0, 10.0, given)
    write_submission(tmp_path / "s.csv", form, predictions)
    assert (tmp_path / "s.csv").read_bytes() == text.getvalue().encode()
    check_submission(tmp_path / "s.csv", form, "s.csv")


def test_rounding_may_leave_the_range_of_the_labels_by_half_a_decimal_and_no_more(predictions, tmp_path):
    write_submission(tmp_path / "s.csv", Form(COLUMNS, NAMES, 0, 10), predictions)
    check_submission(tmp_path / "s.csv", Form(COLUMNS, NAMES, 1.00005, 9.99996), "s.csv")
    with pytest.raises(InputError, match=r"^s.csv is not a valid submission: 1 wrong MOS: b \(outside"):
        check_submission(tmp_path / "s.csv", Form(COLUMNS, NAMES, 1, 9.9999), "s.csv")


def test_a_file_is_logged_once_and_the_users_text_stays(tmp_path):
    log, submission = tmp_path / "log.csv", tmp_path / "s.csv"
    submission.write_text("one")
    log_submission(log, submission, "demo", {"mos": 0.123456, "caption": None})
    log.write_text(log.read_text().rstrip("\n") + "0.8123, my best\n")
    before = log.read_text()
    log_submission(log, submission, "demo", {"mos": 0.5, "caption": 0.5})
    assert log.read_text() == before
    log_submission(log, submission, "other, run", {"mos": None, "caption": np.float64(1.5)})
    assert log.read_text().startswith(before)
    rows = list(csv.reader(log.read_text().splitlines()))
    assert [row[1] for row in rows] == ["run", "demo", "other, run"]
    assert rows[1][3:5] == ["0.1235", ""] and rows[2][3:5] == ["", "1.5000"]


@pytest.mark.parametrize("text", ["best: 최고\r\n", "no end of line: 최고"])
def test_a_log_in_another_encoding_keeps_its_bytes(text, tmp_path):
    log, submission = tmp_path / "log.csv", tmp_path / "s.csv"
    submission.write_text("one")
    log_submission(log, submission, "demo", {"mos": 1, "caption": None})
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n") + text.encode("cp949"))
    before = log.read_bytes()
    log_submission(log, submission, "demo", {"mos": 1, "caption": None})
    assert log.read_bytes() == before, "it is logged already"
    log_submission(log, submission, "other", {"mos": 1, "caption": None})
    assert log.read_bytes().startswith(before) and log.read_bytes().splitlines()[-1].count(b",other,") == 1

"""submission.csv: what it must look like, writing it, and finding every fault of one at once."""

import contextlib
import csv
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.files import write_text
from src.data.readers.registry import read_dataset

COLUMNS = ("img_name", "mos", "comments")
_SHOWN = 5


@dataclass(frozen=True)
class Form:
    """What a submission must hold: its columns, its photos in order, and the range of the training labels."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    low: float
    high: float


def label_range(root: Path) -> tuple[float, float]:
    """The least and greatest MOS of root/train.csv; without any, all numbers."""
    known = []
    for row in read_rows(root / "train.csv", ("mos",)):
        with contextlib.suppress(ValueError):
            known.append(float(row.cells["mos"]))
    known = [value for value in known if math.isfinite(value)]
    return (min(known), max(known)) if known else (-math.inf, math.inf)


def read_form(root: Path, format: str) -> Form:
    """What a submission for the data set under `root` must hold; no photo where the data set has none for test.

    A competition's form is the organiser's. The data sets of captions have none: all test photos, captions alone.
    """
    if format == "dacon":
        return _organisers_form(root)
    table, _ = read_dataset(root, format)
    return Form(("img_name", "comments"), tuple(table["photo_id"][table["part"] == "test"]), -math.inf, math.inf)


def _organisers_form(root: Path) -> Form:
    """The form that root/sample_submission.csv shows, or where there is none, the photos of root/test.csv.

    Raises InputError where the two do not list the same photos.
    """
    low, high = label_range(root)
    listed = [row.cells["img_name"].strip() for row in read_rows(root / "test.csv", ("img_name", "img_path"))]
    tested = list(dict.fromkeys(listed))
    sample = root / "sample_submission.csv"
    if not sample.is_file():
        return Form(COLUMNS, tuple(tested), low, high)
    rows = read_rows(sample, COLUMNS)
    names = [row.cells["img_name"].strip() for row in rows]
    if Counter(names) != Counter(tested):
        odd = sorted(set(names) ^ set(tested)) or [name for name, n in Counter(names).items() if n > 1]
        raise InputError(
            f"{sample} and {root / 'test.csv'} do not list the same photos ({len(odd)} differ, such as "
            f"{', '.join(odd[:_SHOWN])}); get the organiser's files again"
        )
    return Form(tuple(rows[0].cells) if rows else COLUMNS, tuple(names), low, high)


def write_submission(path: Path, form: Form, mos: dict[str, float], captions: dict[str, str]) -> None:
    """Write the form filled in, UTF-8, MOS with four decimals. mos and captions: by photo name."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(form.columns)
    for name in form.names:
        cells = {"img_name": name, "mos": f"{mos[name]:.4f}", "comments": captions[name]}
        writer.writerow([cells.get(column, "") for column in form.columns])
    write_text(path, text.getvalue())


def _listed(what: str, which: list[str]) -> list[str]:
    more = f" and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
    return [f"{len(which)} {what}: {', '.join(which[:_SHOWN])}{more}"] if which else []


def _wrong_mos(text: str, form: Form) -> str:
    try:
        value = float(text.replace("_", "?"))  # Python alone would take 1_0 for a number
    except ValueError:
        return "no number"
    if not math.isfinite(value):
        return "not finite"
    # four decimals round by up to half of the last one
    inside = form.low - 5e-5 <= value <= form.high + 5e-5
    return "" if inside else f"outside the labels' range {form.low:g} to {form.high:g}"


def faults(path: Path, form: Form) -> list[str]:
    """Every fault of a submission file, a sentence each; empty where it is as it must be.

    Raises InputError where the file cannot be read as CSV in UTF-8 or lacks a column.
    """
    rows = read_rows(path, tuple(column for column in COLUMNS if column in form.columns))
    found = []
    columns = tuple(rows[0].cells) if rows else form.columns
    if columns != form.columns:
        found.append(f"columns are {', '.join(columns)}, not {', '.join(form.columns)}")
    names = [row.cells["img_name"] for row in rows]
    if len(names) != len(form.names):
        found.append(f"{len(names)} rows, not {len(form.names)}")
    found += _listed("photos twice", [name for name, n in Counter(names).items() if n > 1])
    given, wanted = set(names), set(form.names)
    found += _listed("photos missing", [name for name in form.names if name not in given])
    found += _listed("photos that are not in the test set", [name for name in names if name not in wanted])
    if not found and tuple(names) != form.names:
        found.append("the rows are in another order than the test photos")
    if "mos" in form.columns:
        wrong = [(row.cells["img_name"], _wrong_mos(row.cells["mos"], form)) for row in rows]
        found += _listed("wrong MOS", [f"{name} ({reason})" for name, reason in wrong if reason])
    found += _listed("empty captions", [row.cells["img_name"] for row in rows if not row.cells["comments"].strip()])
    found += _listed("captions with <unk>", [row.cells["img_name"] for row in rows if "<unk>" in row.cells["comments"]])
    return found

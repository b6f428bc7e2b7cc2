"""The form of submission.csv: reading what it must hold, writing it, and checking a file for all faults at once."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.files import write_text
from src.base.text import finite_number
from src.data.readers.registry import read_dataset

COLUMNS = ("img_name", "mos", "comments")
_SHOWN = 5
"""Names listed of each fault."""
_HALF_DECIMAL = 5e-5
"""Rounding to four decimals moves a MOS by up to this."""


@dataclass(frozen=True)
class Form:
    """What a submission must hold: columns, photos in order, and the range of the training labels."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    low: float
    high: float


def label_range(root: Path) -> tuple[float, float]:
    """The least and greatest MOS of root/train.csv; (-inf, inf) without any."""
    cells = [row.cells["mos"] for row in read_rows(root / "train.csv", ("mos",))]
    values = [value for value in map(finite_number, cells) if value is not None]
    return (min(values), max(values)) if values else (-math.inf, math.inf)


def read_form(root: Path, format: str) -> Form:
    """The form of a submission for the data set under `root`, without photos where it has no test part.

    A competition's is the organiser's. Data sets of captions have none: all test photos, captions alone.
    """
    if format == "dacon":
        return _organisers_form(root)
    table, _ = read_dataset(root, format)
    return Form(("img_name", "comments"), tuple(table["photo_id"][table["part"] == "test"]), -math.inf, math.inf)


def _organisers_form(root: Path) -> Form:
    """The form of root/sample_submission.csv, or where there is none, the photos of root/test.csv.

    Raises InputError where the two do not list the same photos.
    """
    low, high = label_range(root)
    tested = [row.cells["img_name"].strip() for row in read_rows(root / "test.csv", ("img_name", "img_path"))]
    tested = list(dict.fromkeys(tested))
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


def write_submission(path: Path, form: Form, predictions: pd.DataFrame) -> None:
    """Fill the form in: UTF-8, MOS with four decimals. predictions: photo_id, mos and caption of every photo."""
    table = predictions.rename(columns={"photo_id": "img_name", "caption": "comments"}).set_index("img_name")
    table = table.loc[list(form.names)].reset_index().reindex(columns=list(form.columns), fill_value="")
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.4f"))


def check_submission(path: Path, form: Form, name: str) -> None:
    """Raise InputError that lists every fault where a submission file is not valid. name: of the file, in the message.

    Raises it too where the file cannot be read as CSV in UTF-8 or lacks a column.
    """
    rows = read_rows(path, tuple(column for column in COLUMNS if column in form.columns))
    faults = []
    columns = tuple(rows[0].cells) if rows else form.columns
    if columns != form.columns:
        faults.append(f"columns are {', '.join(columns)}, not {', '.join(form.columns)}")
    names = [row.cells["img_name"] for row in rows]
    if len(names) != len(form.names):
        faults.append(f"{len(names)} rows, not {len(form.names)}")
    faults += _listed("photos twice", [name for name, n in Counter(names).items() if n > 1])
    present, expected = set(names), set(form.names)
    faults += _listed("photos missing", [name for name in form.names if name not in present])
    faults += _listed("photos that are not in the test set", [name for name in names if name not in expected])
    if not faults and tuple(names) != form.names:
        faults.append("the rows are in another order than the test photos")
    if "mos" in form.columns:
        wrong = [(row.cells["img_name"], _mos_fault(row.cells["mos"], form)) for row in rows]
        faults += _listed("wrong MOS", [f"{name} ({reason})" for name, reason in wrong if reason])
    captions = [(row.cells["img_name"], row.cells["comments"]) for row in rows]
    faults += _listed("empty captions", [name for name, caption in captions if not caption.strip()])
    faults += _listed("captions with <unk>", [name for name, caption in captions if "<unk>" in caption])
    if faults:
        raise InputError(f"{name} is not a valid submission: {'; '.join(faults)}")


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def _mos_fault(text: str, form: Form) -> str:
    value = finite_number(text)
    if value is None:
        return "no finite number"
    inside = form.low - _HALF_DECIMAL <= value <= form.high + _HALF_DECIMAL
    return "" if inside else f"outside the labels' range {form.low:g} to {form.high:g}"

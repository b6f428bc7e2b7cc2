"""The form of submission.csv: reading what it must hold, writing it, and checking a file for all faults at once."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.files import write_text
from src.base.spelling import match_names, shown
from src.base.text import finite_number
from src.data.prediction_tables import read_predictions
from src.data.readers.dacon import LABELS, missing_column
from src.data.readers.registry import read_dataset

NAME = "img_name"
ANSWERS = tuple(LABELS.values())
"""The columns that are predicted. A form has at least one of them; cells of all others stay as they are."""
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
    further_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The cells of the columns that are not predicted."""
    photos: Mapping[str, str] = field(default_factory=dict)
    """The photo_id of each name that is spelled otherwise here."""


def label_range(root: Path) -> tuple[float, float]:
    """The least and greatest MOS of root/train.csv; (-inf, inf) without any."""
    cells = [row.cells.get("mos", "") for row in read_rows(root / "train.csv", (NAME,))]
    values = [value for value in map(finite_number, cells) if value is not None]
    return (min(values), max(values)) if values else (-math.inf, math.inf)


def read_form(root: Path, format: str, task: str) -> Form:
    """The form of a submission for the data set under `root`, without photos where it has no test part.

    A competition's is the organiser's. Data sets of captions have none: all test photos, captions alone.
    """
    if format == "dacon":
        return _organisers_form(root, task)
    table, _ = read_dataset(root, format)
    return Form((NAME, "comments"), tuple(table["photo_id"][table["part"] == "test"]), -math.inf, math.inf)


def _organisers_form(root: Path, task: str) -> Form:
    """The form of root/sample_submission.csv; without one, the photos of root/test.csv and what the task learns.

    Names may be spelled otherwise in the two where they look the same and like no other. Raises InputError where they
    do not list the same photos.
    """
    low, high = label_range(root)
    tested = [row.cells[NAME].strip() for row in read_rows(root / "test.csv", (NAME, "img_path"))]
    tested = list(dict.fromkeys(tested))
    sample = root / "sample_submission.csv"
    if not sample.is_file():
        learned = [name for name in LABELS if task in ("both", name) and not missing_column(root, name)]
        answers = [LABELS[name] for name in learned]
        return Form((NAME, *answers), tuple(tested), low, high)
    rows = read_rows(sample, (NAME,), ANSWERS)
    names = [row.cells[NAME] for row in rows]
    listed = [name.strip() for name in names]
    photos = match_names(listed, tested)
    odd = [name for name in listed if name not in photos] + sorted(set(tested) - set(photos.values()))
    if odd := odd or [name for name, n in Counter(listed).items() if n > 1]:
        raise InputError(
            f"{sample} and {root / 'test.csv'} do not list the same photos ({len(odd)} differ, such as "
            f"{', '.join(map(shown, odd[:_SHOWN]))}); get the organiser's files again"
        )
    columns = tuple(rows[0].cells) if rows else (NAME, *ANSWERS)
    further = [column for column in columns if column not in (NAME, *ANSWERS)]
    cells = {column: tuple(row.cells[column] for row in rows) for column in further}
    other = {name: photos[name.strip()] for name in names if name != photos[name.strip()]}
    return Form(columns, tuple(names), low, high, cells, other)


def write_submission(path: Path, form: Form, predictions: Path) -> None:
    """Fill the form in: UTF-8, MOS with four decimals. predictions: the table of every photo's MOS and caption."""
    table = read_predictions(predictions).rename(columns={"caption": "comments"}).set_index("photo_id")
    table = table.loc[[form.photos.get(name, name) for name in form.names]]
    cells = {NAME: form.names, **{column: table[column].to_numpy() for column in ANSWERS}, **form.further_columns}
    filled = pd.DataFrame({column: cells[column] for column in form.columns})
    write_text(path, filled.to_csv(index=False, lineterminator="\n", float_format="%.4f"))


def check_submission(path: Path, form: Form, name: str) -> None:
    """Raise InputError that lists every fault where a submission file is not valid. name: of the file, in the message.

    Raises it too where the file cannot be read as CSV in UTF-8 or lacks a column.
    """
    rows = read_rows(path, tuple(column for column in (NAME, *ANSWERS) if column in form.columns))
    faults = []
    columns = tuple(rows[0].cells) if rows else form.columns
    if columns != form.columns:
        faults.append(f"columns are {', '.join(columns)}, not {', '.join(form.columns)}")
    names = [row.cells[NAME] for row in rows]
    if len(names) != len(form.names):
        faults.append(f"{len(names)} rows, not {len(form.names)}")
    faults += _listed("photos twice", [shown(name) for name, n in Counter(names).items() if n > 1])
    faults += _name_faults(names, form)
    if not faults and tuple(names) != form.names:
        faults.append("the rows are in another order than the test photos")
    if "mos" in form.columns:
        wrong = [(row.cells[NAME], _mos_fault(row.cells["mos"], form)) for row in rows]
        faults += _listed("wrong MOS", [f"{name} ({reason})" for name, reason in wrong if reason])
    if "comments" in form.columns:
        captions = [(row.cells[NAME], row.cells["comments"]) for row in rows]
        faults += _listed("empty captions", [name for name, caption in captions if not caption.strip()])
        faults += _listed("captions with <unk>", [name for name, caption in captions if "<unk>" in caption])
    for column, cells in form.further_columns.items():
        organisers = dict(zip(form.names, cells, strict=True))
        changed = [
            f"{shown(photo)} ({row.cells[column]!r}, not {organisers[photo]!r})"
            for photo, row in zip(names, rows, strict=True)
            if photo in organisers and row.cells.get(column, organisers[photo]) != organisers[photo]
        ]
        faults += _listed(f"cells of column {column or 'without a name'} that are not the form's", changed)
    if faults:
        raise InputError(f"{name} is not a valid submission: {'; '.join(faults)}")


def _name_faults(names: Sequence[str], form: Form) -> list[str]:
    """Which photos of the form are missing, spelled otherwise or not in it."""
    present, expected = dict.fromkeys(names), dict.fromkeys(form.names)
    meant = {name: right for right, name in match_names(expected, present).items() if name != right}
    missing = [right for right in expected if right not in present and right not in meant.values()]
    strange = [name for name in present if name not in expected and name not in meant]
    respelled = [f"{ascii(name)} for {ascii(right)}" for name, right in meant.items()]
    return [
        *_listed("photos spelled otherwise", respelled),
        *_listed("photos missing", [shown(name) for name in missing]),
        *_listed("photos that are not in the test set", [shown(name) for name in strange]),
    ]


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def _mos_fault(text: str, form: Form) -> str:
    value = finite_number(text)
    if value is None:
        return "no finite number"
    inside = form.low - _HALF_DECIMAL <= value <= form.high + _HALF_DECIMAL
    return "" if inside else f"outside the labels' range {form.low:g} to {form.high:g}"

"""The one table: every data set becomes one row per photo."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.base.csv_files import write_csv
from src.base.errors import InputError
from src.base.files import write_text

COLUMNS = ("photo_id", "path", "mos", "captions", "group", "part")


@dataclass(frozen=True)
class Rejection:
    """A row or photo that cannot be used. where: its place in the files ("train.csv, line 7")."""

    where: str
    photo_id: str
    path: str
    reason: str


def make_table(rows: Iterable[tuple]) -> pd.DataFrame:
    """The table from rows in the order of COLUMNS.

    photo_id, path (relative to the data root), group: str. mos: float64, NaN where missing. captions: tuple of str,
    empty where missing. part: "train", "validation", "test", or "rejected" for a photo that belongs to no part.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    by_name = zip(COLUMNS, columns, strict=True)
    frame = pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, values in by_name})
    frame["mos"] = frame["mos"].astype("float64")
    for name in ("photo_id", "path", "group", "part"):
        frame[name] = frame[name].astype("str")
    return frame


def for_training(frame: pd.DataFrame) -> np.ndarray:
    """The photos that models may learn from and that are split into folds, bool [N]: the parts train and validation."""
    return frame["part"].isin(("train", "validation")).to_numpy()


def drop_wordless(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The table without captions that hold no letter and no digit, and those: (photo_id, caption).

    Captioner and scorer have nothing of them: the scorer's tokenizer also drops letters beyond U+FFFF.
    """
    wordless = [
        (photo_id, caption)
        for photo_id, captions in zip(frame["photo_id"], frame["captions"], strict=True)
        for caption in captions
        if not any(letter.isalnum() and letter <= "\uffff" for letter in caption)
    ]
    dropped = {caption for _, caption in wordless}
    kept = [tuple(caption for caption in captions if caption not in dropped) for captions in frame["captions"]]
    return frame.assign(captions=pd.Series(kept, frame.index, dtype=object)), wordless


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write the table as JSON lines, one photo a line; `load_table` gives back an equal one."""
    lines = []
    for row in frame[list(COLUMNS)].itertuples(index=False, name=None):
        photo_id, photo_path, mos, captions, group, part = row
        values = (photo_id, photo_path, None if math.isnan(mos) else float(mos), list(captions), group, part)
        lines.append(json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def load_table(path: Path) -> pd.DataFrame:
    """Read what `save_table` wrote. Raises InputError where the file is something else."""
    try:
        # not splitlines: JSON strings may hold U+2028 and its like unescaped
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return make_table(
            (r["photo_id"], r["path"], math.nan if r["mos"] is None else r["mos"], tuple(r["captions"]), r["group"],
             r["part"])
            for r in rows
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a table of photos ({error}); remove it and run again") from None


def write_rejections(rejections: Sequence[Rejection], path: Path) -> None:
    """Write the list as CSV with the columns where, photo_id, path, reason."""
    write_csv(path, ("where", "photo_id", "path", "reason"), map(astuple, rejections))

"""The tables that predict and ensemble write and later stages read: one row a photo."""

from pathlib import Path

import pandas as pd

UNREADABLE = "unreadable photo"
"""In the column `fallback` of a test photo that no network could read."""


def read_predictions(path: Path) -> pd.DataFrame:
    """The table with photo_id, mos (NaN where empty), caption and what else it holds; numbers exactly as written."""
    text = {"photo_id": str, "caption": str, "fallback": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"mos": [""]})

"""Readers by name: a data set's own files become the one table. Nothing downstream knows where a photo came from."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from src.base.errors import InputError
from src.data.readers.coco import read_coco
from src.data.readers.dacon import read_dacon
from src.data.readers.flickr import read_flickr8k, read_flickr30k
from src.data.readers.karpathy import read_karpathy
from src.data.table import Rejection

READERS: dict[str, Callable[[Path], tuple[pd.DataFrame, list[Rejection]]]] = {
    "dacon": read_dacon,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "flickr8k": read_flickr8k,
    "flickr30k": read_flickr30k,
}


def read_dataset(root: Path, format: str) -> tuple[pd.DataFrame, list[Rejection]]:
    """The data set under `root` as the one table (see src.data.table), and the rows and photos left out of it.

    The table is in file order: all train photos, then validation, then test. A rejected train or validation photo is
    not in it; a rejected test photo is, with the path "". With every train photo rejected the train part is empty.
    Raises InputError for faults that leaving out rows cannot mend.
    """
    if format not in READERS:
        raise InputError(f"data.format={format} is unknown; known: {', '.join(READERS)}")
    return READERS[format](Path(root))

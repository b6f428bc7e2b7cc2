"""What one fold is trained and validated on, read from the cache."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.base.errors import InputError
from src.base.files import read_json
from src.data.dataset import Labels, encode_labels
from src.data.folds import load_folds
from src.data.table import for_training, load_table
from src.data.vocabulary import Vocabulary
from src.training.task import Scale


@dataclass(frozen=True)
class FoldData:
    """rows: int64 indices into `labels`, whose order is the table's. references: captions of validation_rows.

    targets: `labels` with the captions to train on, a teacher's where there is one.
    """

    labels: Labels
    targets: Labels
    vocabulary: Vocabulary
    train_rows: np.ndarray
    validation_rows: np.ndarray
    references: list[tuple[str, ...]]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]

    def labelled(self, task: str) -> np.ndarray:
        """Those of train_rows that have a label which the task learns from."""
        captioned = np.diff(self.labels.photo_offsets)[self.train_rows] > 0
        rated = ~np.isnan(self.labels.mos[self.train_rows])
        return self.train_rows[{"mos": rated, "caption": captioned, "both": rated | captioned}[task]]

    def scale(self, task: str) -> Scale:
        """Range, mean and spread of the training labels. Raises InputError where the task has nothing to learn."""
        mos = self.labels.mos[self.labelled("mos")].astype(np.float64)
        if task != "caption" and (len(mos) < 2 or mos.min() == mos.max()):
            raise InputError(f"task={task}: the training photos hold no two different MOS; use task=caption")
        if task != "mos" and not len(self.labelled("caption")):
            raise InputError(f"task={task}: the training photos hold no caption; use task=mos")
        if task == "caption":
            return Scale(0.0, 1.0, 0.5, 1.0)
        return Scale(float(mos.min()), float(mos.max()), float(mos.mean()), float(mos.std()))


def read_fold(
    photos: Path,
    vocabulary: Path,
    folds: Path,
    fold: int,
    maximum_words: int,
    features: Path | None = None,
    taught: dict[str, str] | None = None,
) -> FoldData:
    """The data of one fold from the folders of preprocess and split, and of cached features where these are used.

    taught: a teacher's caption of each training photo that has captions, by photo_id; to be trained on instead.

    Raises InputError where the fold has no photo to train or to validate on.
    """
    table = load_table(photos / "photos.jsonl")
    words = Vocabulary.load(vocabulary / "vocabulary.json")
    train = np.flatnonzero(for_training(table))
    number = load_folds(folds / "folds.csv", table["photo_id"].iloc[train].tolist())
    validation_rows, train_rows = train[number == fold], train[number != fold]
    if not len(validation_rows) or not len(train_rows):
        raise InputError(f"fold {fold} has {len(train_rows)} photos to train on and {len(validation_rows)} to validate")
    channels = read_json(photos / "statistics.json")["channels"]
    labels = replace(encode_labels(table, photos / "pixels.npy", words, maximum_words), features=features)
    targets = labels
    if taught is not None:
        captions = zip(table["photo_id"], np.diff(labels.photo_offsets), strict=True)
        said = [(taught[name],) if several and name in taught else () for name, several in captions]
        encoded = encode_labels(table.assign(captions=said), labels.pixels, words, maximum_words)
        targets = replace(encoded, features=features)
    return FoldData(
        labels,
        targets,
        words,
        train_rows,
        validation_rows,
        table["captions"].iloc[validation_rows].tolist(),
        tuple(channels["mean"]),
        tuple(max(value, 1e-3) for value in channels["sd"]),  # a data set of one colour has no spread
    )

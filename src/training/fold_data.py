"""What one fold is trained and validated on, read from the cache."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.base.errors import InputError
from src.base.files import read_json
from src.data.folds import load_folds
from src.data.labels import EncodedCaptions, Labels
from src.data.table import for_training, load_table
from src.data.vocabulary import Vocabulary
from src.training.task import Scale


@dataclass(frozen=True)
class FoldData:
    """Labels of all photos, in the order of the table, and which of them are trained and validated on.

    targets: `labels` with the captions to train on, a teacher's where there is one. train_rows, validation_rows: int64
    indices into both. references: captions of validation_rows. channel_mean, channel_std: of the pixels, in [0, 1].
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
        """Those of train_rows that have a label of the task."""
        captioned = np.diff(self.labels.photo_offsets)[self.train_rows] > 0
        rated = ~np.isnan(self.labels.mos[self.train_rows])
        return self.train_rows[{"mos": rated, "caption": captioned, "both": rated | captioned}[task]]

    def validated_on(self, photos: int) -> "FoldData":
        """With so many validation photos at most, evenly spread over the table."""
        count = len(self.validation_rows)
        kept = np.arange(min(photos, count)) * count // min(photos, count)
        references = [self.references[place] for place in kept.tolist()]
        return replace(self, validation_rows=self.validation_rows[kept], references=references)

    def scale(self, task: str) -> Scale:
        """Statistics of the training labels. Raises InputError where the task has nothing to learn."""
        mos = self.labels.mos[self.labelled("mos")].astype(np.float64)
        if task != "caption" and (len(mos) < 2 or mos.min() == mos.max()):
            raise InputError(f"task={task}: its training photos hold no two different MOS; use task=caption")
        if task != "mos" and not len(self.labelled("caption")):
            raise InputError(f"task={task}: its training photos hold no caption; use task=mos")
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
    teacher_captions: dict[str, str] | None = None,
) -> FoldData:
    """The data of one fold, from the folders of preprocess and split and, where they are used, of cached features.

    teacher_captions: a teacher's caption for each training photo that has captions, by photo_id, to train on instead.
    Raises InputError where the fold has no photo to train or to validate on.
    """
    table = load_table(photos / "photos.jsonl")
    words = Vocabulary.load(vocabulary / "vocabulary.json")
    train = np.flatnonzero(for_training(table))
    assigned = load_folds(folds / "folds.csv", table["photo_id"].iloc[train].tolist())
    validation_rows, train_rows = train[assigned == fold], train[assigned != fold]
    if not len(validation_rows) or not len(train_rows):
        raise InputError(f"fold {fold} has {len(train_rows)} photos to train on and {len(validation_rows)} to validate")
    channels = read_json(photos / "statistics.json")["channels"]
    mos, pixels = table["mos"].to_numpy(), photos / "pixels.npy"
    encoded = EncodedCaptions.load(vocabulary / "captions.npz")
    labels = replace(encoded.labels(mos, pixels, maximum_words), features=features)
    targets = labels
    if teacher_captions is not None:
        counts = zip(table["photo_id"], np.diff(labels.photo_offsets), strict=True)
        captions = [(teacher_captions[name],) if count and name in teacher_captions else () for name, count in counts]
        encoded = EncodedCaptions.of(captions, words)
        targets = replace(encoded.labels(mos, pixels, maximum_words), features=features)
    return FoldData(
        labels,
        targets,
        words,
        train_rows,
        validation_rows,
        table["captions"].iloc[validation_rows].tolist(),
        tuple(channels["mean"]),
        tuple(max(value, 1e-3) for value in channels["sd"]),  # a data set of one colour has none
    )

"""A run's prediction tables laid beside its labels and scored."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.metrics.captions import Meteor
from src.metrics.floors import constant_sentence
from src.metrics.out_of_fold import constant_of_folds, run_report
from src.metrics.pairing import read_references
from src.settings import Settings

MEMBERS = ("network", "ridge", "boosting", "blend")


def _predicted(settings: Settings, predictions: pd.DataFrame) -> tuple[np.ndarray | None, dict, list[str] | None]:
    members = {name: predictions[name].to_numpy(float) for name in MEMBERS if name in predictions}
    mos = predictions["mos"].to_numpy(float) if members else None
    return mos, members, None if settings.task == "mos" else predictions["caption"].tolist()


def score_out_of_fold(settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, meteor: Meteor) -> dict:
    """Report of the out-of-fold predictions; the constant sentence of a fold comes from the photos outside it.

    table: the photos by photo_id. predictions: what predict wrote as oof.csv.
    """
    mos, members, candidates = _predicted(settings, predictions)
    train = table[table["part"] == "train"]
    own = predictions.set_index("photo_id")["fold"]
    everywhere = own.reindex(train.index).fillna(-1).astype(int).to_numpy()
    sentences = {}
    if candidates is not None:
        sentences = constant_of_folds(train["captions"].tolist(), everywhere, settings.metric.weights, meteor)
    labels = train.loc[predictions["photo_id"]]
    fold = predictions["fold"].to_numpy()
    return run_report(
        mos,
        members,
        labels["mos"].to_numpy(float),
        candidates,
        labels["captions"].tolist(),
        [sentences.get(number) for number in fold.tolist()],
        fold,
        settings.metric,
        meteor,
        settings.run.seed,
    )


def score_test(
    settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, labels: Path, meteor: Meteor
) -> dict:
    """Report of the test predictions against a file of labels; the constant sentence comes from all training photos.

    labels: CSV with img_name, mos and comments, one or more rows per photo.
    """
    mos, members, candidates = _predicted(settings, predictions)
    truth, names = read_references(labels), predictions["photo_id"].tolist()
    captions = [list(several) for several in table["captions"] if several]
    sentence = None
    if candidates is not None and captions:
        sentence = constant_sentence(captions, settings.metric.weights, meteor).sentence
    known = [truth.mos.get(name) for name in names]
    return run_report(
        mos,
        members,
        np.array([np.nan if value is None else value for value in known], float),
        candidates,
        [truth.captions.get(name, ()) for name in names],
        [sentence] * len(names),
        np.full(len(names), -1),
        settings.metric,
        meteor,
        settings.run.seed,
    )

"""A run's prediction tables laid beside its labels and scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from src.data.table import for_training
from src.ensembling.stacking import TEST
from src.metrics.constant_caption import constant_sentence
from src.metrics.file_evaluation import read_references
from src.metrics.meteor import Meteor
from src.metrics.out_of_fold import constant_of_folds, run_report
from src.settings.schema import Settings

_FIXED = ("network", "ridge", "boosting", "svr")
MEMBERS = (*_FIXED, *(f"frozen_{name}" for name in _FIXED[1:]), "blend")


def predicted_mos(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """The MOS of each member by name [N]; none where no photo has a label to learn from."""
    others = [name for name in predictions if " " in name and name.partition(" ")[0] in MEMBERS]  # joined runs'
    return {name: predictions[name].to_numpy(float) for name in (*MEMBERS, *others) if name in predictions}


def score_out_of_fold(
    settings: Settings, table: pd.DataFrame, several: Sequence[pd.DataFrame], constants: dict[int, str], meteor: Meteor
) -> list[dict]:
    """Reports of out-of-fold predictions; the constant sentence of a fold comes from the photos outside it.

    table: the photos by photo_id. several: what predict and ensemble wrote as oof.csv, of the same photos and folds.
    constants: the sentences by fold, where ensemble has found them; searched for where empty.
    """
    train = table[for_training(table)]
    own = several[0].set_index("photo_id")["fold"]
    everywhere = own.reindex(train.index).fillna(-1).astype(int).to_numpy()
    sentences = constants
    if settings.task != "mos" and not constants:
        sentences = constant_of_folds(train["captions"].tolist(), everywhere, settings.metric.weights, meteor)

    def report(predictions: pd.DataFrame) -> dict:
        labels, fold = train.loc[predictions["photo_id"]], predictions["fold"].to_numpy()
        return _report(settings, predictions, labels, [sentences.get(number) for number in fold.tolist()], fold, meteor)

    return [report(predictions) for predictions in several]


def _report(
    settings: Settings,
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    sentences: list[str | None],
    fold: np.ndarray,
    meteor: Meteor,
) -> dict:
    """labels: mos and captions of the predicted photos. sentences, fold: their constant sentences and folds."""
    members = predicted_mos(predictions)
    return run_report(
        predictions["mos"].to_numpy(float) if members else None,
        members,
        labels["mos"].to_numpy(float),
        None if settings.task == "mos" else predictions["caption"].tolist(),
        labels["captions"].tolist(),
        sentences,
        fold,
        settings.metric,
        meteor,
        settings.run.seed,
    )


def test_labels(table: pd.DataFrame, file: Path) -> pd.DataFrame | None:
    """mos and captions of the test photos by photo_id; None where nothing is known of them.

    table: the photos by photo_id. file: CSV with img_name, mos and comments, one or more rows per photo; without it
    the data set's own labels of its test part count.
    """
    labels = table.loc[table["part"] == "test", ["mos", "captions"]]
    if file.is_file():
        truth = read_references(file)
        known = [truth.mos.get(name) for name in labels.index]
        captions = [truth.captions.get(name, ()) for name in labels.index]
        mos = [np.nan if value is None else value for value in known]
        labels = pd.DataFrame({"mos": np.array(mos, float), "captions": captions}, labels.index)
    return labels if labels["mos"].notna().any() or labels["captions"].map(bool).any() else None


def score_test(
    settings: Settings,
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    constants: dict[int, str],
    meteor: Meteor,
) -> dict:
    """Report of the test predictions; the constant sentence comes from all training photos.

    table: the photos by photo_id. labels: those of the test photos, see `test_labels`. constants: as for
    `score_out_of_fold`.
    """
    labels = labels.loc[predictions["photo_id"]]
    captions = [list(several) for several in table["captions"][for_training(table)] if several]
    sentence = constants.get(TEST)
    if settings.task != "mos" and captions and not sentence:
        sentence = constant_sentence(captions, settings.metric.weights, meteor).sentence
    return _report(settings, predictions, labels, [sentence] * len(labels), np.full(len(labels), -1), meteor)

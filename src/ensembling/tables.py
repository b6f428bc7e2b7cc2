"""The prediction tables of a run: one row per photo, every member's MOS, the chosen one and a caption."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.data.table import for_training
from src.ensembling.regressors import PhotoFeatures, mos_members
from src.ensembling.stacking import TEST
from src.inference.fold_predictions import Prediction
from src.settings.schema import Settings

Found = dict[int, dict[int, Prediction]]


def folds_of_rows(table: pd.DataFrame, number: np.ndarray) -> np.ndarray:
    """The fold of each row of the table [N]: TEST for test photos, -1 for what is always or never in training.

    number: the folds of the training photos, in the table's order.
    """
    fold = np.full(len(table), -1)
    fold[(table["part"] == "test").to_numpy()] = TEST
    fold[for_training(table)] = number
    return fold


def _network_mos(found: Found, fold: np.ndarray) -> np.ndarray | None:
    """Out-of-fold MOS of validation photos, mean over folds of test photos, NaN elsewhere; None without a network."""
    total, count = np.zeros(len(fold)), np.zeros(len(fold))
    for predictions in found.values():
        for row, prediction in predictions.items():
            if prediction.mos is None:
                return None
            total[row] += prediction.mos
            count[row] += 1
    return np.divide(total, count, out=np.full(len(fold), np.nan), where=count > 0)


def _captions(found: Found, fold: np.ndarray, test_captions: dict[int, str | None]) -> list[str | None]:
    """A validation photo's caption is its own fold's."""
    captions: list[str | None] = [test_captions.get(row) for row in range(len(fold))]
    for number, predictions in found.items():
        for row, prediction in predictions.items():
            if fold[row] == number:
                captions[row] = prediction.caption
    return captions


def prediction_tables(
    settings: Settings,
    table: pd.DataFrame,
    fold: np.ndarray,
    described: PhotoFeatures,
    found: Found,
    test_captions: dict[int, str | None],
    sentence: str,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Out-of-fold and test tables, and the weights of the blend.

    found: each fold's predictions by row. test_captions: those of the test photos by row. sentence: the caption where
    there is none. A test photo that no network could read gets the labels' mean and that sentence.
    """
    mos = table["mos"].to_numpy(float)
    members, weights = mos_members(_network_mos(found, fold), described, mos, fold, list(found))
    readable = np.isin(np.arange(len(table)), [row for rows in found.values() for row in rows])
    unreadable = ~readable & (fold == TEST)
    for predicted in members.values():
        predicted[unreadable] = table["mos"].mean()
    mos = members.get(settings.predict.mos, members.get("blend", np.zeros(len(table))))
    captions = [text or sentence for text in _captions(found, fold, test_captions)]
    columns = {"photo_id": table["photo_id"], "fold": fold, "mos": mos, **members, "caption": captions}
    whole = pd.DataFrame(columns)
    whole["fallback"] = np.where(unreadable, "unreadable photo", "")
    out_of_fold = whole[np.isin(fold, list(found))].drop(columns="fallback")
    return out_of_fold, whole[fold == TEST].drop(columns="fold"), weights


def fold_table(table: pd.DataFrame, fold: np.ndarray, found: Found) -> pd.DataFrame:
    """Each fold's own predictions of the test photos, for whoever blends them otherwise."""
    rows = [
        (table["photo_id"].iloc[row], number, prediction.mos, prediction.caption)
        for number, predictions in found.items()
        for row, prediction in sorted(predictions.items())
        if fold[row] == TEST
    ]
    return pd.DataFrame(rows, columns=["photo_id", "fold", "mos", "caption"])


def read_predictions(path: Path) -> pd.DataFrame:
    """A table that predict wrote."""
    text = {"photo_id": str, "caption": str, "fallback": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"mos": [""]})

"""All that the networks of one fold predict: computed in one go, kept as files, gathered into the tables of a run."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.base.errors import InputError
from src.base.files import read_json, replacing, write_json, write_text
from src.data.prediction_tables import UNREADABLE, read_predictions
from src.data.table import for_training, load_table
from src.inference.caption_candidates import GREEDY, SEARCH, PhotoCaptions, candidate_searches, generate_captions
from src.inference.mos_prediction import predict_mos
from src.pipeline import outputs
from src.pipeline.artefacts import outdated
from src.settings.schema import Settings
from src.training.distributed import Ranks, init_ranks
from src.training.feature_cache import ensemble_features, mos_features, regressor_tables
from src.training.fold_data import FoldData


class Photos(NamedTuple):
    """The table of all photos, and the rows of those for training and of the readable test photos."""

    table: pd.DataFrame
    training: np.ndarray
    tested: list[int]


@dataclass(frozen=True)
class FoldPredictions:
    """The predictions of the photos at `rows`: the fold's validation photos, then the readable test photos."""

    rows: list[int]
    mos: dict[int, float]
    """By row; empty for a task without MOS."""
    captions: dict[int, PhotoCaptions]
    """By row; empty for a task without captions. With candidates and without cached features, of the training photos
    features alone."""
    seconds: float
    """Time for MOS and captions of `rows`."""


def read_photos(folder: Path) -> Photos:
    """The photos that preprocess wrote to the folder."""
    table = load_table(folder / "photos.jsonl")
    rejected = pd.read_csv(folder / "rejected.csv", dtype=str, keep_default_na=False)["photo_id"]
    tested = np.flatnonzero((table["part"] == "test") & ~table["photo_id"].isin(rejected)).tolist()
    return Photos(table, np.flatnonzero(for_training(table)), tested)


def predict_fold(
    checkpoints: Path, settings: Settings, data: FoldData, tested: list[int], ranks: Ranks, label: str
) -> FoldPredictions:
    """Predict with the fold in the folder `checkpoints`; computed by all processes and complete on each.

    MOS comes from best-mos.pt and captions from best-caption.pt: the two peak at different epochs. tested: the rows of
    the readable test photos.
    """
    rows = data.validation_rows.tolist() + tested
    began = time.perf_counter()
    mos: dict[int, float] = {}
    captions: dict[int, PhotoCaptions] = {}
    if settings.task != "caption":
        mos = predict_mos(checkpoints, settings, data.labels, rows, ranks, f"{label} MOS")
    if settings.task != "mos":
        candidates = settings.predict.candidates
        searches = candidate_searches(settings) if candidates else {SEARCH: settings.decoding}
        captions = generate_captions([checkpoints], settings, data.labels, rows, searches, ranks, f"{label} captions")
    seconds = time.perf_counter() - began
    if captions and settings.predict.candidates and not settings.encoder.cached:
        others = np.setdiff1d(data.train_rows, rows).tolist()
        captions |= generate_captions([checkpoints], settings, data.labels, others, {}, ranks, f"{label} features")
    return FoldPredictions(rows, mos, captions, seconds)


def write_fold_predictions(
    folder: Path, predictions: FoldPredictions, photo_ids: list[str], settings: Settings
) -> list[str]:
    """Write predictions.csv (photo_id, mos, caption), timing.json, and with predict.candidates candidates.jsonl.

    Beside the latter, unless features are cached, pooled.npy holds the pooled features of all N photos, float32 [N, D],
    NaN for a photo that cannot be read. photo_ids: of all photos. Returns the names of the files that count: a time is
    another in each run.
    """
    rows, captions = predictions.rows, predictions.captions
    table = pd.DataFrame({
        "photo_id": [photo_ids[row] for row in rows],
        "mos": [predictions.mos.get(row) for row in rows],
        "caption": [captions[row].caption if captions else "" for row in rows],
    })  # fmt: skip
    write_text(folder / "predictions.csv", table.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "timing.json", {"photos": len(rows), "seconds": round(predictions.seconds, 3)})
    if not (captions and settings.predict.candidates):
        return ["predictions.csv"]
    lines = [
        {"photo_id": photo_ids[row], "captions": captions[row].candidates, "sources": captions[row].sources}
        for row in rows
    ]
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    write_text(folder / "candidates.jsonl", text)
    if settings.encoder.cached:
        return ["predictions.csv", "candidates.jsonl"]
    by_row = {row: photo.pooled for row, photo in captions.items() if photo.pooled is not None}
    pooled = np.full((len(photo_ids), len(next(iter(by_row.values())))), np.nan, np.float32)
    for row, features in by_row.items():
        pooled[row] = features
    with replacing(folder / "pooled.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, pooled)
    return ["predictions.csv", "candidates.jsonl", "pooled.npy"]


@dataclass(frozen=True)
class FoldCandidates:
    """What `write_fold_predictions` wrote for a choice among captions."""

    captions: dict[str, list[str]]
    """By photo_id, those of validation and test photos."""
    greedy: dict[str, str]
    """By photo_id; absent where greedy decoding wrote no word."""


def read_fold_candidates(folder: Path) -> FoldCandidates:
    """The candidates in a fold's predictions."""
    # Not splitlines: U+2028 and its like stand unescaped inside JSON strings.
    lines = (folder / "candidates.jsonl").read_text(encoding="utf-8").split("\n")
    photos = [json.loads(line) for line in lines if line]
    return FoldCandidates(
        {photo["photo_id"]: photo["captions"] for photo in photos},
        {
            photo["photo_id"]: photo["captions"][photo["sources"].index(GREEDY)]
            for photo in photos
            if GREEDY in photo["sources"]
        },
    )


def retrieval_features(settings: Settings, folds: Sequence[int]) -> dict[int, np.ndarray]:
    """The features of all photos that each fold's neighbours are searched by, mapped from their files.

    Where features are cached they are those that networks predict MOS from [N, V, D], of all folds one array; else the
    pooled ones of the fold's own encoder [N, D]. Raises InputError where they are gone.
    """
    if settings.encoder.cached:
        return dict.fromkeys(folds, mos_features(_features_of_run(settings)))
    files = {fold: outputs.fold_predictions(settings, fold).folder / "pooled.npy" for fold in folds}
    return {fold: np.load(file, mmap_mode="r") for fold, file in files.items()}


def regressor_features(settings: Settings, encoder: str | None = None) -> list[tuple[np.ndarray, list[range]]]:
    """The cached features that regressors predict MOS from, of all photos and their V views, each mapped [N, V, D], and
    the columns of each block that count.

    encoder: one of ensemble.encoders, whose features are computed where they are absent. None: the run's own; raises
    InputError where they are gone.
    """
    return regressor_tables(
        ensemble_features(settings, encoder, init_ranks()) if encoder else _features_of_run(settings)
    )


def _features_of_run(settings: Settings) -> Path:
    cache = outputs.features(settings)
    if reason := outdated(cache, code=False):
        raise InputError(f"{cache.folder}: {reason}; python -m src.predict --fresh makes the features again")
    return cache.folder


def write_run_predictions(
    folder: Path, table: pd.DataFrame, folds: Mapping[int, Path], best: int, averaged: dict[int, str] | None
) -> list[str]:
    """Write what the networks of a run answer: oof.csv, test.csv, test_folds.csv and timing.csv; the files that count.

    table: of all photos. folds: the folders of their predictions. A test photo gets the mean MOS over folds and the
    caption of the fold `best`, or that in `averaged`, by row; one that no network could read gets neither.
    """
    by_fold = {fold: read_predictions(path / "predictions.csv").set_index("photo_id") for fold, path in folds.items()}
    training = set(table["photo_id"][for_training(table)])
    parts = [part[part.index.isin(training)].assign(fold=fold).reset_index() for fold, part in by_fold.items()]
    oof = pd.concat(parts, ignore_index=True).set_index("photo_id")
    oof = oof.loc[[name for name in table["photo_id"] if name in oof.index], ["fold", "mos", "caption"]]
    test = table.loc[table["part"] == "test", ["photo_id"]]
    total = sum(part["mos"].reindex(test["photo_id"]).to_numpy(float) for part in by_fold.values())
    captions = by_fold[best]["caption"].reindex(test["photo_id"], fill_value="").tolist()
    if averaged is not None:
        captions = [averaged.get(row, "") for row in test.index]
    readable = test["photo_id"].isin(by_fold[best].index)
    test = test.assign(mos=total / len(by_fold), caption=captions, fallback=np.where(readable, "", UNREADABLE))
    each = pd.concat([part.loc[~part.index.isin(training)].assign(fold=fold) for fold, part in by_fold.items()])
    each = each.reset_index()[["photo_id", "fold", "mos", "caption"]]
    timing = pd.DataFrame([{"fold": fold} | read_json(path / "timing.json") for fold, path in folds.items()])
    frames = {"oof.csv": oof.reset_index(), "test.csv": test, "test_folds.csv": each, "timing.csv": timing}
    for name, frame in frames.items():
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    return ["oof.csv", "test.csv", "test_folds.csv"]

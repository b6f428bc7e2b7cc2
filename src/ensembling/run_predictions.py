"""What predict left of each run that takes part: the networks' answers, and the candidates for captions."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.base.errors import InputError
from src.data.folds import load_folds
from src.data.prediction_tables import read_predictions
from src.ensembling.regressors import TEST
from src.inference.fold_predictions import Photos, read_fold_candidates, read_photos, retrieval_features
from src.pipeline import outputs, resolved
from src.pipeline.artefacts import outdated, outputs_digest
from src.pipeline.runs import fold_folder, run_folder, settings_path
from src.settings.schema import Settings


@dataclass(frozen=True)
class RunCandidates:
    """The captions that one run's captioners wrote, by fold, and how they see the photos."""

    name: str
    captions: dict[int, dict[int, list[str]]]
    """Of each fold: captions by the row of the photo, those of its validation and of the test photos."""
    greedy: dict[int, dict[int, str]]
    """The same: the caption of greedy decoding."""
    encoded: dict[int, np.ndarray]
    """Each fold's `retrieval_features`; folds that share an encoder share one array."""

    def _folds(self, fold: int) -> list[int]:
        """Those whose captioners have not learned the photos of a fold: itself, or all for TEST."""
        return list(self.captions) if fold == TEST else [fold]

    def saw(self, fold: int, row: int) -> bool:
        """Whether these captioners saw the photo, whatever they wrote; arguments as for `of`."""
        return any(row in self.captions[k] for k in self._folds(fold))

    def of(self, fold: int, row: int) -> list[str]:
        """The captions of a photo of a fold by that fold's captioner; by all folds' where `fold` is TEST."""
        return [caption for k in self._folds(fold) for caption in self.captions[k].get(row, [])]

    def features(self, fold: int) -> list[np.ndarray]:
        """Tables of the photos' features, [N, D] or [N, V, D] of V views, as those captioners' encoders see them."""
        return list({id(self.encoded[k]): self.encoded[k] for k in self._folds(fold)}.values())


def check_alike(runs: Sequence[Settings]) -> None:
    """Raise InputError where a run is not predicted, or works on other photos, labels or folds than the first."""
    bases = []
    for run in runs:
        name, photos = run.run.name, outputs.photos(run)
        trained = settings_path(fold_folder(run_folder(run), resolved.folds_of(run)[0]))
        arguments = ["--config", str(trained), f"run.name={name}"]
        how = shlex.join(arguments + [f"data.root={run.data.root}"] * bool(run.data.root))
        predictions = [outputs.fold_predictions(run, fold) for fold in resolved.folds_of(run)]
        for artefact in (photos, *predictions, outputs.predictions(run)):
            if reason := outdated(artefact, code=False):
                raise InputError(f"{name}: {artefact.folder}: {reason}; python -m src.{artefact.stage} {how}")
        bases.append({
            "photos or labels": (photos.record() or {})["outputs"]["photos.jsonl"]["sha256"],
            "folds": outputs_digest(outputs.folds(run)),
            "folds predicted (train.fold)": resolved.folds_of(run),
        })  # fmt: skip
    for run, basis in zip(runs, bases, strict=True):
        if other := [what for what, value in basis.items() if value != bases[0][what]]:
            raise InputError(
                f"{run.run.name} cannot be joined with {runs[0].run.name}: other {' and other '.join(other)}; "
                "join runs of one data set with equal split.*"
            )


def photos_with_folds(run: Settings) -> tuple[Photos, np.ndarray]:
    """All photos, and the fold of each [N]: TEST for test photos, -1 for what is always or never in training."""
    photos = read_photos(outputs.photos(run).folder)
    fold, names = np.full(len(photos.table), -1), photos.table["photo_id"].iloc[photos.training].tolist()
    fold[(photos.table["part"] == "test").to_numpy()] = TEST
    fold[photos.training] = load_folds(outputs.folds(run).folder / "folds.csv", names)
    return photos, fold


def run_predictions(run: Settings, photo_ids: pd.Series) -> pd.DataFrame:
    """What the networks of a run answer of each photo [N]: mos (NaN where nothing), caption (""), fallback ("")."""
    folder = outputs.predictions(run).folder
    parts = [read_predictions(folder / f"{name}.csv") for name in ("oof", "test")]
    frame = pd.concat([part for part in parts if len(part)]).set_index("photo_id")
    frame = frame.reindex(index=photo_ids, columns=["fold", "mos", "caption", "fallback"])
    texts = frame[["caption", "fallback"]].astype(object).fillna("")
    return frame.assign(**texts).reset_index(drop=True)


def run_candidates(run: Settings, photo_ids: pd.Series) -> RunCandidates:
    """The candidates of a run by the rows of the photos [N]. Raises InputError where it was predicted without any."""
    if not run.predict.candidates:
        raise InputError(
            f"{run.run.name} was predicted without candidates for captions; run src.predict again with "
            "predict.candidates=true, or give ensemble.captions=search"
        )
    rows = {name: row for row, name in enumerate(photo_ids)}
    folds = resolved.folds_of(run)
    loaded = RunCandidates(run.run.name, {}, {}, retrieval_features(run, folds))
    for fold in folds:
        candidates = read_fold_candidates(outputs.fold_predictions(run, fold).folder)
        loaded.captions[fold] = {rows[name]: captions for name, captions in candidates.captions.items()}
        loaded.greedy[fold] = {rows[name]: caption for name, caption in candidates.greedy.items()}
    return loaded

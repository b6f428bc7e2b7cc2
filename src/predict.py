"""Predict with each fold's networks: its validation photos (out of fold) and every test photo. Nothing is fitted here.

Writes runs/NAME/predictions/: a folder for each fold (predictions.csv; with predict.candidates also candidates.jsonl,
the captions of all searches, and, where features are not cached, those of all photos as pooled.npy), then the networks'
own answers: oof.csv, test.csv (MOS averaged over folds, the caption of the fold that scored best), test_folds.csv (each
fold's own test predictions) and timing.csv (photos and seconds of each fold). A test photo that cannot be read gets
neither MOS nor caption, and is marked in the column `fallback`. What was cut off goes on at the fold where it was.
Where there are several GPUs or cores, folds are predicted side by side (run.jobs).
"""

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.base.errors import guarded
from src.pipeline import artefacts, outputs, resolved, stages
from src.pipeline.budget import keep_pace
from src.settings.load import load
from src.settings.schema import Settings

if TYPE_CHECKING:
    from src.training.distributed import Ranks


def add_options(parser: argparse.ArgumentParser) -> None:
    help = "leave the tables of the run to a later call, so that folds can be predicted by several machines"
    parser.add_argument("--part", action="store_true", help=help)


def predict_folds(settings: Settings, ranks: "Ranks", options: argparse.Namespace) -> None:
    """Predict with the folds, then write the tables of the run. Called in every process."""
    from src.inference.caption_candidates import best_captions
    from src.inference.fold_predictions import predict_fold, read_photos, write_fold_predictions, write_run_predictions
    from src.inference.networks import best_fold
    from src.pipeline.fold_jobs import run_side_by_side
    from src.training.feature_cache import cached_features
    from src.training.fold_data import read_fold

    shared = (outputs.photos, outputs.vocabulary, outputs.folds)
    photos, vocabulary, folds = ranks.shared_paths(lambda: [make(settings).folder for make in shared])
    features = cached_features(settings, ranks)
    every_fold, fresh = resolved.folds_of(settings), options.fresh
    if "RANK" not in os.environ:
        missing = [k for k in every_fold if fresh or artefacts.outdated(outputs.fold_predictions(settings, k))]
        if run_side_by_side("predict", settings, missing, ["--part", *["--fresh"] * fresh]):
            fresh = False
    table, _, tested = read_photos(photos)
    folders = ranks.shared_paths(lambda: [outputs.fold(settings, fold).folder for fold in every_fold])
    checkpoints = dict(zip(every_fold, folders, strict=True))
    for fold in every_fold:
        data = read_fold(photos, vocabulary, folds, fold, settings.vocabulary.maximum_words, features)
        with contextlib.ExitStack() as stack:
            making = ranks.main and artefacts.making(outputs.fold_predictions(settings, fold), fresh)
            work = stack.enter_context(making) if making else None
            if ranks.broadcast(bool(work)):
                predictions = predict_fold(checkpoints[fold], settings, data, tested, ranks, f"fold {fold}")
                if work:
                    names = table["photo_id"].tolist()
                    work.outputs += write_fold_predictions(work.folder, predictions, names, settings)
    if options.part:
        return
    with contextlib.ExitStack() as stack:
        making = ranks.main and artefacts.making(outputs.predictions(settings), options.fresh)
        work = stack.enter_context(making) if making else None
        if ranks.broadcast(bool(work)):
            averaged = None
            if settings.decoding.model_averaging != "none" and settings.task != "mos":
                every = list(checkpoints.values())
                averaged = best_captions(every, settings, data.labels, tested, ranks, "all folds' captions")
            if work:
                predicted = {fold: outputs.fold_predictions(settings, fold).folder for fold in every_fold}
                work.outputs += write_run_predictions(work.folder, table, predicted, best_fold(checkpoints), averaged)


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "predict", __doc__, add_options)
    if os.environ.get("RANK", "0") == "0":
        stages.ensure_inputs(settings, "predict")
        settings = resolved.tuned(keep_pace(settings, "predict", options.fresh))
    if not resolved.folds_of(settings):
        print(f"predict: nothing to do: {settings.run.name} joins other runs", flush=True)
        return
    written = stages.outputs_of("predict", settings) if "RANK" not in os.environ and not options.fresh else []
    if written and not any(artefacts.outdated(artefact) for artefact in written):
        print(f"predict: {outputs.predictions(settings).folder}: up to date", flush=True)
        return
    from src.base.randomness import make_deterministic
    from src.training.distributed import init_ranks, shutdown

    make_deterministic(settings.run.threads)
    ranks = init_ranks()
    predict_folds(ranks.broadcast(settings), ranks, options)
    shutdown(ranks)


if __name__ == "__main__":
    guarded(main)

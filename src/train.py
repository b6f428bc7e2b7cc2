"""Train the network on each fold, or on one with --fold K.

Writes runs/NAME/fold-K/: best-mos.pt, best-caption.pt, last.pt, metrics.csv, timing.csv, curves.png, tensorboard/,
parameters.json and settings.yaml. A run that was cut off goes on at the same step; a fold
that tune has trained with the settings that won is taken over. Where there are several GPUs or
cores, folds are trained side by side (run.jobs); what each prints is in runs/NAME/train-fold-K.log as well. Several
processes for one fold: torchrun --nproc-per-node=N -m src.train --fold K. --estimate says what training takes.
--merge FOLDER --fold K run.name=NAME writes the published model with that fold's adapters (LoRA) in its weights.
"""

import argparse
import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import InputError, guarded
from src.base.locks import lock
from src.pipeline import outputs
from src.pipeline.artefacts import making, mark_begun, outdated
from src.pipeline.budget import keep_pace
from src.pipeline.resolved import folds_of, planned, search_plan, tuned
from src.pipeline.runs import best_checkpoint, fold_folder, run_folder, tuning_folder
from src.pipeline.stages import ensure_inputs
from src.pipeline.trained_runs import load_run
from src.settings.load import load, read_arguments
from src.settings.schema import Settings

if TYPE_CHECKING:
    from src.training.distributed import Ranks


def train_fold(
    settings: Settings,
    fold: int,
    folder: Path,
    sources: list[Path],
    ranks: "Ranks",
    features: Path | None,
) -> None:
    """Train one fold in its folder.

    sources: the folders of the photos, the vocabulary and the folds. features: that of the cached features.
    """
    from src.inference.teacher_captions import load_teacher_captions
    from src.training.fit import Fit
    from src.training.fold_data import read_fold

    teacher = load_teacher_captions(settings, fold, ranks)
    photos_folder, vocabulary_folder, folds_folder = sources
    data = read_fold(
        photos_folder, vocabulary_folder, folds_folder, fold, settings.vocabulary.maximum_words, features, teacher
    )
    validated = data.validated_on(settings.train.validation_photos)
    Fit(settings, validated, fold, folder, ranks).run()


def check_folds(settings: Settings, folds: list[int]) -> None:
    """Raise InputError where a fold has no photos or no labels to learn from, before any of them is trained."""
    from src.training.fold_data import read_fold

    photos, vocabulary, assigned = (
        make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)
    )
    for fold in folds:
        data = read_fold(photos, vocabulary, assigned, fold, settings.vocabulary.maximum_words)
        try:
            data.scale(settings.task)
        except InputError as error:
            raise InputError(f"fold {fold}: {error}") from None


def discard(settings: Settings, folds: list[int]) -> None:
    """Remove what was trained of all these folds, so that whatever stops this training, nothing old is left in it."""
    for k in folds:
        folder = outputs.fold(settings, k).folder
        with lock(folder, "train", wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def take_over(searched: Settings, settings: Settings, folds: list[int], fresh: bool) -> list[int]:
    """Put the networks that tune has trained with the settings that won in the place of folds that are not begun.

    searched: the settings before the winner's were put in. fresh: what was begun is removed first. Returns the folds of
    which nothing is left to train.
    """
    taken: list[int] = []
    if fresh:
        discard(settings, folds)
    if not folds or not search_plan(searched).trials or outdated(outputs.tuning(searched)):
        return taken
    for k in folds:
        fold, trained = outputs.fold(settings, k), fold_folder(tuning_folder(run_folder(settings)), k)
        folder = fold.folder
        with lock(folder, "train", wait=False):
            if trained.is_dir() and not any(folder.glob("*.pt")):
                shutil.rmtree(folder, ignore_errors=True)
                mark_begun(fold, trained)
                os.replace(trained, folder)
                print(f"train: {folder}: trained by tune with these settings", flush=True)
                taken.append(k)
    return taken


def add_options(parser: argparse.ArgumentParser) -> None:
    help = "print parameters, memory and steps of a fold's training, read no photo and no weights, and stop"
    parser.add_argument("--estimate", action="store_true", help=help)
    help = "write a finished fold's published model with its adapters merged, for transformers or timm, and stop"
    parser.add_argument("--merge", metavar="FOLDER", help=help)


def merge(settings: Settings, folder: Path) -> None:
    """Write the merged model of the fold that --fold names. settings: those it was trained with."""
    from src.inference.merging import merge_fold

    if settings.train.fold is None:
        raise InputError(f"--merge {folder} writes the model of one fold: say which, as --fold 0")
    trained = fold_folder(run_folder(settings), settings.train.fold)
    checkpoint = merge_fold(settings, trained, folder)
    print(f"train: {folder}: the published model with the adapters of {trained / checkpoint} merged", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    if read_arguments(argv, "train", __doc__, add_options).options.merge:
        settings, options = load_run(argv, "train", __doc__, add_options)
        merge(settings, Path(options.merge))
        return
    settings, options = load(argv, "train", __doc__, add_options)
    if options.estimate:
        from src.training.estimate import describe, estimate

        print("\n".join(f"train: {line}" for line in describe(estimate(settings), settings)), flush=True)
        return
    requested = searched = settings
    if os.environ.get("RANK", "0") == "0":
        ensure_inputs(settings, "train")
        searched, settings = planned(settings), tuned(settings)
    missing = []
    if "RANK" not in os.environ:
        missing = [k for k in folds_of(settings) if options.fresh or outdated(outputs.fold(settings, k))]
        for fold in (k for k in folds_of(settings) if k not in missing):
            print(f"train: {outputs.fold(settings, fold).folder}: up to date", flush=True)
        if not missing:
            return
    from src.base.randomness import make_deterministic
    from src.pipeline.fold_jobs import run_side_by_side
    from src.training.distributed import init_ranks, notice, shutdown
    from src.training.feature_cache import cached_features
    from src.training.metrics_log import write_origin

    check_folds(settings, missing)
    taken = take_over(searched, settings, missing, options.fresh)
    make_deterministic(settings.run.threads)
    ranks = init_ranks()
    settings = ranks.broadcast(settings)
    if ranks.main and notice(settings, ranks):
        print(f"train: {notice(settings, ranks)}", flush=True)
    features = cached_features(settings, ranks)
    if requested.run.minutes:
        settings = ranks.broadcast(tuned(keep_pace(requested, "train", options.fresh)) if ranks.main else None)
    if run_side_by_side("train", settings, [k for k in missing if k not in taken], ["--fresh"] * options.fresh):
        missing = taken
        if not missing:
            return
    sources = (outputs.photos, outputs.vocabulary, outputs.folds)
    folders = ranks.shared_paths(lambda: [source(settings).folder for source in sources])
    for fold in missing or folds_of(settings):
        with contextlib.ExitStack() as stack:
            # the main process owns the fold's folder; the others are told of it, or of none where it is up to date
            fresh = options.fresh and fold not in taken
            work = stack.enter_context(making(outputs.fold(settings, fold), fresh)) if ranks.main else None
            if work:
                write_origin(work.folder, settings)
            to_train = [work.folder] if work and fold not in taken else []
            for folder in ranks.shared_paths(to_train.copy):
                train_fold(settings, fold, folder, folders, ranks, features)
            if work:
                from src.plots.training_curves import draw_curves

                draw_curves(work.folder / "metrics.csv", work.folder / "curves.png")
                work.outputs += [*(best_checkpoint(work.folder, task).name for task in settings.tasks), "metrics.csv"]
    shutdown(ranks)


if __name__ == "__main__":
    guarded(main)

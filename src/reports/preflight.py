"""What would end a run later, found in seconds and all at once, before the first long stage."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from src.base.errors import InputError
from src.base.files import existing_folder, require_writable
from src.base.machine import largest_file, usable_cores
from src.base.worker_pool import thread_pool
from src.data.folds import assign_folds, merge_groups, official_folds
from src.data.handcrafted import DECODED_SHORT_SIDE
from src.data.image import header_fault
from src.data.readers.dacon import missing_column
from src.data.readers.registry import read_dataset
from src.data.table import Rejection, drop_wordless, for_training, load_table
from src.data.view import needed_short_side
from src.pipeline import outputs
from src.pipeline.artefacts import inputs_of_begun_fold, outputs_digest
from src.pipeline.resolved import DEMO, data_root, folds_of, has_networks
from src.pipeline.runs import cached_folders, fold_folder, marker_of, rejected_path, run_folder
from src.pipeline.trained_runs import joined
from src.settings.schema import Settings
from src.submission.form import read_form

if TYPE_CHECKING:
    from src.inference.network_bytes import NetworkBytes

_LEAST_SECONDS, _LEAST_OF_PHOTO = 20.0, 0.01  # to start the stages; to decode, encode and predict a photo
_SHOWN = 3  # examples of each fault
_PAGE = 5_000_000  # bytes of a file that any run writes, such as its report


def preflight_faults(settings: Settings, fresh: bool) -> list[str]:
    """Lines for all that is wrong with places, tables, photos, runs, network, disk and scorers; none if nothing.

    Of a photo only the header is read. The embedded demo competition, which the program makes, is not looked at.
    fresh: this run's folds are trained again, whatever they were trained on.
    """
    faults, photos = _raised(require_writable, Path(settings.run.root), "run.root"), 0
    faults += _raised(require_writable, Path(settings.run.submissions), "run.submissions")
    if settings.data.root is not None or data_root(settings) != DEMO:
        data_faults, photos = _data_faults(settings, fresh)
        faults += data_faults
    faults += _raised(_check_named_runs, settings)
    features: dict[str, int] = {}
    if settings.ensemble.encoders and settings.task != "caption":
        from src.inference.network_bytes import encoder_bytes

        for name in settings.ensemble.encoders:
            faults += _raised(lambda name: features.update(encoder_bytes(settings, name)), name)
    if has_networks(settings):
        faults += _raised(_check_network, settings, photos, features)
    if settings.task != "mos":
        faults += _raised(_check_scorers, settings)
    return list(dict.fromkeys(faults))


def _raised(check: Callable[..., Any], *arguments: Any) -> list[str]:
    """The line of the error that a check raises."""
    try:
        check(*arguments)
    except InputError as error:
        return [str(error)]
    return []


def _data_faults(settings: Settings, fresh: bool) -> tuple[list[str], int]:
    """Lines for what is wrong with the data, and how many photos are listed (0 where that cannot be told)."""
    root = data_root(settings)
    try:
        table, rejections = read_dataset(root, settings.data.format)
    except InputError as error:
        return [str(error)], 0
    table, wordless = drop_wordless(table)
    trained = [] if fresh else _raised(_check_trained_folds, settings, table["path"].tolist())
    rejections += _unreadable(settings, table)
    faults = trained
    if rejections and settings.data.on_bad_photo == "stop":
        shown = "; ".join(f"{r.where}: {r.photo_id} {r.path}: {r.reason}" for r in rejections[:_SHOWN])
        more = f" and {len(rejections) - _SHOWN} more" if len(rejections) > _SHOWN else ""
        faults.append(f"{len(rejections)} rows or photos cannot be used ({shown}{more}); mend them, or set "
                      "data.on_bad_photo=skip")  # fmt: skip
    rejected = {rejection.photo_id for rejection in rejections}
    usable = table[for_training(table) & ~table["photo_id"].isin(rejected).to_numpy()]
    scores, captions = usable["mos"].nunique(), int(usable["captions"].map(len).sum())
    faults += _raised(check_labels, settings, len(usable), scores, captions, wordless)
    faults += _raised(read_form, root, settings.data.format, settings.task)
    if len(usable):
        faults += _raised(_check_folds, settings, usable)
    minutes, least = settings.run.minutes, (_LEAST_SECONDS + _LEAST_OF_PHOTO * len(table)) / 60
    if minutes is not None and minutes < least:
        faults.append(
            f"run.minutes={minutes:g}: {len(table)} photos take at least {least:.1f} on any machine; give more"
        )
    return faults, len(table)


def _check_trained_folds(settings: Settings, paths: list[str]) -> None:
    """Raise InputError where a fold of this run was trained on photos in other places, which `train` would refuse."""
    folders = [fold_folder(run_folder(settings), k) for k in folds_of(settings)]
    trained_on = {inputs_of_begun_fold(folder).get("photos"): folder for folder in reversed(folders)}
    for photos in cached_folders(Path(settings.run.root), "photos") if any(trained_on) else []:
        artefact = dataclasses.replace(outputs.photos(settings), folder=photos, marker=marker_of(photos))
        folder = trained_on.get(outputs_digest(artefact))
        if folder and load_table(photos / "photos.jsonl")["path"].tolist() != paths:
            raise InputError(
                f"{folder} was trained on other photos; keep it and choose another run.name=NAME, or replace it with "
                "--fresh"
            )


def _check_folds(settings: Settings, usable: pd.DataFrame) -> None:
    """Raise InputError where folds cannot be dealt, or one leaves nothing to learn from, but for near-duplicates."""
    split, captioned, mos = settings.split, usable["captions"].map(bool).to_numpy(), usable["mos"].to_numpy(float)
    if split.official:
        folds = official_folds(usable["part"].tolist())
    else:
        groups = merge_groups(usable["group"].to_numpy())
        folds = assign_folds(mos, groups, split.folds, split.holdout, split.seed, captioned)
    rated, described = usable["mos"].nunique() > 1, captioned.any()  # else `check_labels` has told it
    for k in folds_of(settings):
        trained = folds != k
        constant = rated and usable["mos"][trained].nunique() < 2 and settings.task != "caption"
        wordless = described and not captioned[trained].any() and settings.task != "mos"
        if constant or wordless:
            what = "two different MOS" if constant else "caption"
            raise InputError(f"task={settings.task}: the photos to train fold {k} on hold no {what}; give more photos")


def _unreadable(settings: Settings, table: pd.DataFrame) -> list[Rejection]:
    """The photos whose headers tell that they cannot be used."""
    root, megapixels = data_root(settings), settings.data.maximum_megapixels
    short_side = needed_short_side(settings.view, DECODED_SHORT_SIDE)
    listed = table[table["path"] != ""]
    with thread_pool(4 * usable_cores()) as pool:  # they wait for the disk
        faults = list(pool.map(lambda path: header_fault(root / path, short_side, megapixels), listed["path"]))
    return [
        Rejection(f"{row.part} photo", row.photo_id, row.path, fault)
        for row, fault in zip(listed.itertuples(), faults, strict=True)
        if fault
    ]


def check_labels(
    settings: Settings, photos: int, scores: int, captions: int, wordless: Sequence[tuple[str, str]]
) -> None:
    """Raise InputError where the task has nothing to learn from; the line names a task that has.

    photos: that can be used for training; scores: how many different MOS they have; captions: how many of them they
    have; wordless: photo and text of captions that were left out.
    """
    if not photos:
        rejected = rejected_path(run_folder(settings))
        raise InputError(f"no photo is left for training; {rejected} says of each what is wrong with it: mend them")
    possible = {"mos": scores > 1, "caption": captions > 0}
    lacking = [task for task in possible if settings.task in ("both", task) and not possible[task]]
    if not lacking:
        return
    reasons = dict.fromkeys(possible, "no photo for training that can be used has one")
    if scores == 1:
        reasons["mos"] = "all photos for training have the same"
    if wordless:
        reasons["caption"] = f"none of the {len(wordless)} holds a letter or digit ({wordless_example(wordless)})"
    if settings.data.format == "dacon":
        root = data_root(settings)
        columns = {task: missing_column(root, task) for task in lacking}
        reasons |= {task: f"{root / 'train.csv'} has no column {column}" for task, column in columns.items() if column}
    needs = "; and ".join(f"{'MOS' if task == 'mos' else 'captions'}: {reasons[task]}" for task in lacking)
    other = next((task for task in possible if possible[task]), None)
    hint = f"task={other} works with these data" if other else "no task works with these data"
    raise InputError(f"task={settings.task} needs {needs}; {hint}")


def wordless_example(wordless: Sequence[tuple[str, str]]) -> str:
    """The first of the captions without a word."""
    photo_id, caption = wordless[0]
    return f"only emoji, punctuation or the like, such as {caption[:40]!r} of photo {photo_id}"


def _check_named_runs(settings: Settings) -> None:
    joined(settings)
    named = {"train.start_from": settings.train.start_from, "decoder.distill_from": settings.decoder.distill_from}
    for key, name in named.items():
        for k in folds_of(settings) if name else []:
            folder = fold_folder(Path(settings.run.root, name or ""), k)
            if not marker_of(folder).is_file():
                raise InputError(f"{key}={name}: {folder} is not a finished fold; train that run first")


def _check_network(settings: Settings, photos: int, ensemble_features: dict[str, int]) -> None:
    """Build the network, its published weights included, as training and predict do on this machine.

    ensemble_features: bytes of a photo's features by file, of the models of ensemble.encoders.
    """
    from src.inference.network_bytes import network_bytes

    network = network_bytes(settings)
    _check_space(settings, photos, network._replace(features=network.features | ensemble_features))


def _check_space(settings: Settings, photos: int, network: "NetworkBytes") -> None:
    """Raise InputError where the disk, or the limit of a file's size, does not hold what the run writes.

    photos: 0 where nobody knows yet.
    """
    channels = 1 if settings.view.color == "gray" else 3
    view = settings.view.size**2 * channels
    files = {"pixels.npy": view, "crops.npy": view * (settings.view.crops - 1), **network.features}
    folders = [make(settings).folder for make in (outputs.photos, outputs.features)] if photos else []
    for name in settings.ensemble.encoders if photos else []:
        folders.append(outputs.features(outputs.encoder_settings(settings, name), for_mos_alone=True).folder)
    present = [path for folder in folders for path in folder.parent.glob(f"*{folder.name}*/*")]
    there = sum(path.stat().st_size for path in present if path.suffix in (".npy", ".pt"))
    untrained = [k for k in folds_of(settings) if not marker_of(fold_folder(run_folder(settings), k)).is_file()]
    checkpoints = len(untrained) * (network.resumed + len(settings.tasks) * network.best)
    missing = max(photos * sum(files.values()) + network.encoder - there, 0) + checkpoints
    free = shutil.disk_usage(existing_folder(Path(settings.run.root))).free
    if missing > free:
        raise InputError(
            f"run.root={settings.run.root}: pixels, features and checkpoints take {missing / 1e9:.3g} GB more, and "
            f"{free / 1e9:.3g} GB are free there; make room, or choose another place with run.root=FOLDER"
        )
    largest = max(photos * max(files.values()), network.resumed, network.best, _PAGE)
    if largest > largest_file():
        raise InputError(
            f"files of {largest / 1e9:.3g} GB are written, larger than they may be here; raise the limit with ulimit -f"
        )


def _check_scorers(settings: Settings) -> None:
    from src.metrics.java import java
    from src.metrics.spice import fetch_models

    java()
    if settings.metric.spice:
        fetch_models()

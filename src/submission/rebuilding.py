"""The steps of rebuilding a submission from its manifest: checks of what it was made from, and a folder of its own."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.files import digest_of, file_digest, fresh_folder, read_json, write_json
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import Making
from src.pipeline.runs import fold_name, settings_path
from src.pipeline.source_code import code_digest
from src.settings.load import save
from src.settings.schema import Settings
from src.submission.form import read_form
from src.submission.manifest import SHARED, environment, form_digest, hashes

_SHOWN = 5
_UNUSED = {
    "weights": ("plan", "tune", "train", "evaluate", "submit"),
    "training": ("plan", "tune", "evaluate", "submit"),
}
"""Stages whose code has no part in a rebuild from there."""


def environment_differences(manifest: dict, start: str) -> Iterator[str]:
    """A line for each difference of machine, versions and code, by which numbers may round otherwise.

    start: weights or training, from which the submission is rebuilt.
    """
    now, earlier = environment(), [manifest["made_with"]]
    if start == "training":
        earlier += [trained for run in manifest["runs"].values() for trained in run["trained_with"].values()]
    for key in ("python", "machine", "processor", "gpus", "threads"):
        was = {str(then[key]): None for then in earlier if then.get(key, now[key]) != now[key]}
        if was:
            yield f"{key} was {', '.join(was)}, is {now[key]}"
    installed = now["packages"]
    versions = [package for then in earlier for package in then["packages"].items()]
    changed = [f"{name} {installed.get(name)} (was {was})" for name, was in versions if installed.get(name) != was]
    if packages := list(dict.fromkeys(changed)):
        more = f" and {len(packages) - _SHOWN} more" if len(packages) > _SHOWN else ""
        yield f"packages differ: {', '.join(packages[:_SHOWN])}{more}"
    used = [stage for stage in stages.STAGES if stage not in _UNUSED[start]]
    if changed := [stage for stage in used if manifest["code"].get(stage) != code_digest(stage)]:
        yield f"the code of {', '.join(changed)} is not that of git commit {manifest['made_with'].get('git')}"


def check_checkpoints(folder: Path, checkpoints: dict[str, dict[str, str]]) -> None:
    """Raise InputError where a checkpoint is missing from the run's folder or has changed. checkpoints: by fold."""
    for fold, files in checkpoints.items():
        for name, sha in files.items():
            path = folder / fold / name
            if not path.is_file() or file_digest(path) != sha:
                what = "was changed" if path.is_file() else "is not there"
                raise InputError(f"{path} {what}; get it again, or train it anew with --from training")


def prepare_folder(root: Path, manifest: dict, fresh: bool) -> None:
    """Empty the folder of the rebuild, or keep it where the same manifest, code and packages started it.

    Raises InputError where it is a folder of something else.
    """
    code = {stage: code_digest(stage) for stage in (*stages.STAGES, "rebuild")}
    marker, identity = root / "rebuild.json", digest_of([manifest, code, environment()["packages"]])
    if root.exists() and not marker.is_file():
        raise InputError(f"{root} is not the folder of a rebuild; move it away, or choose another with run.root=FOLDER")
    if fresh or not root.exists() or read_json(marker) != {"started_with": identity}:
        with fresh_folder(root) as folder:
            write_json(folder / marker.name, {"started_with": identity})


def _symlink(path: Path, target: Path) -> None:
    """A relative link, so that the folder that holds both can be moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def relocate(settings: Settings, root: Path, start: str, names: set[str]) -> Settings:
    """The settings of a run with `root` as run.root, after linking there what the rebuild needs of the old one.

    From weights that is the cache, and what the checkpoints were trained from no longer counts. From training it is
    the runs that this one starts or learns from, unless they are among the `names` that are rebuilt too.
    """
    old = Path(settings.run.root)
    data = resolved.data_root(settings).resolve()
    if data in root.resolve().parents:
        raise InputError(f"data.root={data} holds {old}; give a run.root outside of it")
    train, decoder = settings.train, settings.decoder
    if start == "weights":
        train, decoder = (dataclasses.replace(train, start_from=None), dataclasses.replace(decoder, distill_from=None))
        (old / "cache").mkdir(parents=True, exist_ok=True)
        _symlink(root / "cache", old / "cache")
    for name in (train.start_from, decoder.distill_from):
        if name and name not in names:
            _symlink(root / name, old / name)
    run = dataclasses.replace(settings.run, root=str(root))
    return dataclasses.replace(settings, train=train, decoder=decoder, run=run)


def check_data(settings: Settings, run: dict, form: str) -> None:
    """Raise InputError where photos, vocabulary, folds or the submission's form differ from the manifest's.

    run: the manifest's entry. form: its `form_digest`. preprocess and split must have run.
    """
    wrong = []
    for artefact in SHARED:
        present, name = hashes(artefact(settings)), artefact.__name__
        wrong += [f"{name}/{file}" for file, sha in run[name].items() if present.get(file) != sha]
    root = resolved.data_root(settings)
    if form_digest(read_form(root, settings.data.format, settings.task)) != form:
        wrong.append("the submission's form")
    if wrong:
        raise InputError(
            f"{root} gives other data than the submission was made from ({', '.join(wrong)}); "
            "name the folder of those with data.root=FOLDER"
        )


def check_sources(settings: Settings, run: dict) -> None:
    """Raise InputError where a fold would be trained from other weights or other runs than it was."""
    for fold in resolved.folds_of(settings):
        was, now = run["learned_from"][fold_name(fold)], outputs.fold(settings, fold).inputs
        if wrong := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
            keys = {"weights": "decoder.weights" if settings.decoder.weights else "encoder.weights"}
            keys |= {"start_from": "train.start_from", "transformers": "version of transformers"}
            names = ", ".join(keys.get(name, f"decoder.{name}") for name in wrong)
            raise InputError(
                f"fold {fold} of {settings.run.name} learned from another {names} than there is now; "
                "put the file or run of that name back"
            )


def link_checkpoints(settings: Settings, checkpoints: dict[str, dict[str, str]], old: Path) -> None:
    """Link the checkpoints of the run's folder `old` into its folds, marked as if they had been trained here.

    `check_checkpoints` and `check_data` must have passed.
    """
    for k in resolved.folds_of(settings):
        fold = outputs.fold(settings, k)
        files = list(checkpoints[fold.folder.name])
        for file in files:
            _symlink(fold.folder / file, old / fold.folder.name / file)
        save(settings, settings_path(fold.folder))
        Making(fold.folder, files).finish(fold)


def describe_differences(original: Path, rebuilt: Path) -> str:
    """How many rows and captions of two submissions differ, and by how much their MOS."""
    was, now = ({row.cells["img_name"]: row.cells for row in read_rows(p, ("img_name",))} for p in (original, rebuilt))
    both = [(was[name], now[name]) for name in was if name in now]
    rows = sum(before != after for before, after in both) + len(was.keys() ^ now.keys())
    mos = max((abs(float(a["mos"]) - float(b["mos"])) for a, b in both if "mos" in a and "mos" in b), default=0.0)
    captions = sum(before.get("comments") != after.get("comments") for before, after in both)
    return f"{rows} of {len(was)} rows differ, MOS by {mos:.4f} at most, {captions} captions"

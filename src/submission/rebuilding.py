"""Making a submission again from its manifest: what must be there, where it is made, how far apart results are."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.files import digest_of, file_digest, fresh_folder, provenance, read_json, write_json
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import Making
from src.pipeline.runs import fold_name, settings_path
from src.pipeline.source_code import code_digest
from src.settings.load import save
from src.settings.schema import Settings
from src.submission.form import read_form
from src.submission.manifest import SHARED, form_digest, hashes, installed_packages

_SHOWN = 5
_UNUSED = {"weights": ("tune", "train", "evaluate", "submit"), "training": ("tune", "evaluate", "submit")}
"""Stages whose code has no part in what is rebuilt from there."""


def differences(manifest: dict, start: str) -> Iterator[str]:
    """What is not as it was when the submission was made, so that numbers may round otherwise; a line each.

    start: weights or training, from which it is rebuilt.
    """
    installed = installed_packages()
    now = provenance(installed.get, list(installed))
    befores = [manifest["made_with"]]
    if start == "training":
        befores += [made for run in manifest["runs"].values() for made in run["trained_with"].values()]
    for key in ("python", "machine", "processor", "gpus", "threads"):
        was = {str(before[key]): None for before in befores if before.get(key, now[key]) != now[key]}
        if was:
            yield f"{key} was {', '.join(was)}, is {now[key]}"
    versions = [pair for before in befores for pair in before["packages"].items()]
    changed = [f"{name} {installed.get(name)} (was {was})" for name, was in versions if installed.get(name) != was]
    if other := list(dict.fromkeys(changed)):
        more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        yield f"packages differ: {', '.join(other[:_SHOWN])}{more}"
    used = [stage for stage in stages.STAGES if stage not in _UNUSED[start]]
    if changed := [stage for stage in used if manifest["code"].get(stage) != code_digest(stage)]:
        yield f"the code of {', '.join(changed)} is not that of git commit {manifest['made_with'].get('git')}"


def check_checkpoints(folder: Path, checkpoints: dict[str, dict[str, str]]) -> None:
    """Raise InputError where a checkpoint is not in the run's folder, or not as it was."""
    for fold, files in checkpoints.items():
        for name, sha in files.items():
            path = folder / fold / name
            if not path.is_file() or file_digest(path) != sha:
                what = "was changed" if path.is_file() else "is not there"
                raise InputError(f"{path} {what}; get it again, or train it anew with --from training")


def begin(root: Path, manifest: dict, fresh: bool) -> None:
    """Make `root` ready for the work, or go on in it where the same manifest, code and packages began it.

    Raises InputError where the folder is not of a rebuild.
    """
    code = {stage: code_digest(stage) for stage in (*stages.STAGES, "rebuild")}
    begun, now = root / "rebuild.json", {"begun_with": digest_of([manifest, code, installed_packages()])}
    if root.exists() and not begun.is_file():
        raise InputError(f"{root} is not the folder of a rebuild; move it away, or choose another with run.root=FOLDER")
    if fresh or not root.exists() or read_json(begun) != now:
        with fresh_folder(root) as folder:
            write_json(folder / begun.name, now)


def _link(path: Path, target: Path) -> None:
    """Have `path` lead to `target`, wherever the folder that holds both is moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def settle(settings: Settings, root: Path, start: str, names: set[str]) -> Settings:
    """The settings of a run with `root` in place of run.root, where what it needs of the old one is linked.

    From weights that is the cache; what the checkpoints were trained from no longer counts. From training it is the
    runs that this one learns from, unless they are among the `names` made anew.
    """
    old = Path(settings.run.root)
    data = resolved.data_root(settings).resolve()
    if data in root.resolve().parents:
        raise InputError(f"data.root={data} holds {old}; give a run.root outside of it")
    train, decoder = settings.train, settings.decoder
    if start == "weights":
        train, decoder = (dataclasses.replace(train, start_from=None), dataclasses.replace(decoder, distill_from=None))
        (old / "cache").mkdir(parents=True, exist_ok=True)
        _link(root / "cache", old / "cache")
    for name in {train.start_from, decoder.distill_from} - {None, *names}:
        _link(root / name, old / name)
    run = dataclasses.replace(settings.run, root=str(root))
    return dataclasses.replace(settings, train=train, decoder=decoder, run=run)


def check_data(settings: Settings, run: dict, form: str) -> None:
    """Raise InputError where photos, words, folds or the submission's form are not those of the manifest.

    run: the manifest's entry. form: what `form_digest` gave. preprocess and split must have run.
    """
    wrong = []
    for made in SHARED:
        here = hashes(made(settings))
        wrong += [f"{made.__name__}/{name}" for name, sha in run[made.__name__].items() if here.get(name) != sha]
    root = resolved.data_root(settings)
    wrong += ["the submission's form"] * (form_digest(read_form(root, settings.data.format)) != form)
    if wrong:
        raise InputError(
            f"{root} gives other data than the submission was made from ({', '.join(wrong)}); "
            "name the folder of those with data.root=FOLDER"
        )


def check_sources(settings: Settings, run: dict) -> None:
    """Raise InputError where a fold would be trained from other weights or other runs than it was."""
    for number in resolved.folds_of(settings):
        was, now = run["learned_from"][fold_name(number)], outputs.fold(settings, number).inputs
        if wrong := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
            given = {"weights": "encoder.weights", "start_from": "train.start_from"}
            names = ", ".join(given.get(name, f"decoder.{name}") for name in wrong)
            raise InputError(
                f"fold {number} of {settings.run.name} learned from another {names} than there is now; "
                "put the file or run of that name back"
            )


def place_checkpoints(settings: Settings, checkpoints: dict[str, dict[str, str]], old: Path) -> None:
    """Have the run's folds hold the checkpoints of the folder `old`, as if they had been trained here.

    `check_checkpoints` and `check_data` must have passed.
    """
    for number in resolved.folds_of(settings):
        fold = outputs.fold(settings, number)
        names = checkpoints[fold.folder.name]
        for name in names:
            _link(fold.folder / name, old / fold.folder.name / name)
        save(settings, settings_path(fold.folder))
        Making(fold.folder, list(names)).finish(fold)


def how_far(original: Path, rebuilt: Path) -> str:
    """How much two submissions of the same photos differ, in words."""
    was, now = ({row.cells["img_name"]: row.cells for row in read_rows(p, ("img_name",))} for p in (original, rebuilt))
    both = [(was[name], now[name]) for name in was if name in now]
    other = sum(before != after for before, after in both) + len(was.keys() ^ now.keys())
    mos = max((abs(float(a["mos"]) - float(b["mos"])) for a, b in both if "mos" in a and "mos" in b), default=0.0)
    captions = sum(before.get("comments") != after.get("comments") for before, after in both)
    return f"{other} of {len(was)} rows differ, MOS by {mos:.4f} at most, {captions} captions"

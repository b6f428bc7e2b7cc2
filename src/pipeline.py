"""The stages in order, what each makes and from what, and whether that is up to date.

What a stage makes is an `Artefact`: a folder, and beside its files a marker, written last, that holds the settings,
the content hashes of the inputs, the code's hash and the content hashes of the outputs. What runs share lies in
runs/cache under a name made from settings and inputs; the rest in runs/NAME.
"""

import ast
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from src.config import as_arguments, changing
from src.errors import InputError
from src.files import digest, digest_of, file_digest, lock, read_json, remove_leftovers, write_json
from src.settings import Settings

STAGES = ("preprocess", "split", "train", "predict", "evaluate", "submit")
SUBMISSIONS = Path("submissions")
DATA = Path("data")
DEMO = DATA / "demo"
_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
_HASHED_UP_TO = 64 * 2**20  # a larger output is recognised by its size, to keep the check of a finished stage quick


@dataclass(frozen=True)
class Artefact:
    """What a stage makes (`folder`, `marker`) and everything that it is made from (`settings`, `inputs`)."""

    stage: str
    folder: Path
    marker: Path
    settings: dict[str, Any]
    inputs: dict[str, str]

    def record(self) -> dict | None:
        """The marker's content, or None where the stage has not finished."""
        return read_json(self.marker) if self.marker.is_file() else None


def data_root(settings: Settings) -> Path:
    """The competition's folder: the one given, or data, or the demo where data/train.csv is absent."""
    if settings.data.root is not None:
        return Path(settings.data.root)
    return DATA if (DATA / "train.csv").exists() else DEMO


def run_folder(settings: Settings) -> Path:
    """runs/NAME."""
    return Path(settings.run.root) / settings.run.name


def folds_of(settings: Settings) -> list[int]:
    """The folds that are trained and predicted: the one asked for, or all."""
    if settings.train.fold is not None:
        return [settings.train.fold]
    return [0] if settings.split.holdout else list(range(settings.split.folds))


@cache
def tree_signature(root: Path) -> str:
    """Hash of every file's relative path, size and time of change below `root`, links followed, the demo left out."""
    if not root.is_dir():
        raise InputError(f"data.root={root}: no such folder; it must hold train.csv and test.csv (see data/README.md)")
    entries, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(n for n in folders if Path(folder, n) != DEMO and n[0] != ".")
        seen.add(real)
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a dangling link is reported where its photo is read
                status = os.stat(os.path.join(folder, name))
                entries.append(f"{os.path.relpath(folder, root)}/{name} {status.st_size} {status.st_mtime_ns}")
    return digest("\n".join(sorted(entries)))


@cache
def code_digest(stage: str) -> str:
    """Hash of the stage's script and of every file of src that it imports, directly or not, and of requirements.txt.

    Comments and layout do not count: the syntax trees are hashed.
    """
    source, pending, trees = Path(__file__).parent, [f"src.{stage}"], {}
    while pending:
        module = pending.pop()
        path = source.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if module in trees or not path.is_file():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        trees[module] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src"):
                pending += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                pending += [alias.name for alias in node.names if alias.name.startswith("src.")]
    requirements = source.parent / "requirements.txt"
    pinned = requirements.read_text(encoding="utf-8") if requirements.is_file() else ""
    return digest_of({**trees, "requirements.txt": pinned})


def _part(settings: Settings, *sections: str) -> dict[str, Any]:
    return {k: v for k, v in changing(settings).items() if k.split(".")[0] in sections}


def _outputs(artefact: Artefact) -> str:
    record = artefact.record()
    return "missing" if record is None else digest_of({k: v["sha256"] for k, v in record["outputs"].items()})


def _cached(settings: Settings, stage: str, kind: str, part: dict, inputs: dict) -> Artefact:
    folder = Path(settings.run.root) / "cache" / f"{kind}-{digest_of([part, inputs])[:12]}"
    return Artefact(stage, folder, folder / "done.json", part, inputs)


def demo() -> Artefact:
    """The embedded demo competition, made by preprocess where it is needed."""
    return Artefact("data.demo", DEMO, DEMO / "done.json", {}, {})


def photos(settings: Settings) -> Artefact:
    """The table of photos, their pixels, hand-made features and statistics, made by preprocess."""
    part = _part(settings, "data", "view")
    return _cached(settings, "preprocess", "photos", part, {"data": tree_signature(data_root(settings))})


def vocabulary(settings: Settings) -> Artefact:
    """The words of the training captions, made by preprocess."""
    inputs = {"photos": _outputs(photos(settings))}
    return _cached(settings, "preprocess", "vocabulary", _part(settings, "vocabulary"), inputs)


def folds(settings: Settings) -> Artefact:
    """folds.csv, made by split."""
    return _cached(settings, "split", "folds", _part(settings, "split"), {"photos": _outputs(photos(settings))})


def fold(settings: Settings, number: int) -> Artefact:
    """Checkpoints and metrics of one fold, made by train."""
    folder = run_folder(settings) / f"fold-{number}"
    free = ("predict", "decoding", "metric.bootstrap", "metric.spice")
    part = {k: v for k, v in changing(settings).items() if not k.startswith(free)}
    inputs = {made.__name__: _outputs(made(settings)) for made in (photos, vocabulary, folds)}
    if settings.train.start_from:
        start = Path(settings.run.root) / settings.train.start_from / f"fold-{number}" / "done.json"
        if not start.is_file():
            raise InputError(f"train.start_from={settings.train.start_from}: {start.parent} is not a finished fold")
        inputs["start_from"] = file_digest(start)
    return Artefact("train", folder, folder / "done.json", part, inputs)


def predictions(settings: Settings) -> Artefact:
    """Out-of-fold and test predictions of the run, made by predict."""
    inputs = {f"fold-{k}": _outputs(fold(settings, k)) for k in folds_of(settings)}
    folder = run_folder(settings) / "predictions"
    return Artefact("predict", folder, folder / "done.json", _part(settings, "predict", "decoding", "task"), inputs)


def score(settings: Settings) -> Artefact:
    """score.json of the run, made by evaluate."""
    labels = data_root(settings) / "test_labels.csv"
    inputs = {"predictions": _outputs(predictions(settings))}
    inputs |= {"test_labels": file_digest(labels)} if labels.is_file() else {}
    folder = run_folder(settings)
    return Artefact("evaluate", folder, folder / "evaluated.json", _part(settings, "metric"), inputs)


def submission(settings: Settings) -> Artefact:
    """The submission and its manifest, made by submit."""
    inputs = {"predictions": _outputs(predictions(settings)), "score": _outputs(score(settings))}
    return Artefact("submit", SUBMISSIONS, run_folder(settings) / "submitted.json", {}, inputs)


def artefacts(stage: str, settings: Settings) -> list[Artefact]:
    """What a stage makes with these settings."""
    makers = {
        "preprocess": (photos, vocabulary),
        "split": (folds,),
        "train": tuple(lambda s, k=k: fold(s, k) for k in folds_of(settings)),
        "predict": (predictions,),
        "evaluate": (score,),
        "submit": (submission,),
    }
    return [make(settings) for make in makers[stage]]


def _differences(was: dict, now: dict) -> list[str]:
    return [f"{k} was {was.get(k)}, is {now.get(k)}" for k in {**was, **now} if was.get(k) != now.get(k)]


def outdated(artefact: Artefact, code: bool = True) -> str:
    """Why an artefact must be made (again), or "" where it is up to date. code: other code counts as a reason."""
    record = artefact.record()
    if record is None:
        return "not made yet"
    if differences := _differences(record["settings"], artefact.settings):
        return "; ".join(differences)
    if record["inputs"] != artefact.inputs:
        names = [k for k in artefact.inputs if record["inputs"].get(k) != artefact.inputs[k]]
        return f"its input changed ({', '.join(names) or 'fewer inputs'})"
    for name, output in record["outputs"].items():
        path = artefact.folder / name
        if not path.is_file() or path.stat().st_size != output["bytes"]:
            return f"{path} is missing or was changed"
        if output["bytes"] <= _HASHED_UP_TO and file_digest(path) != output["sha256"]:
            return f"{path} was changed"
    return "the code changed" if code and record["code"] != code_digest(artefact.stage) else ""


def _identity(artefact: Artefact) -> dict:
    return {"settings": artefact.settings, "inputs": artefact.inputs, "code": code_digest(artefact.stage)}


@dataclass
class Making:
    """An artefact being made: the folder to write in, and the names of its files that count, to be filled."""

    folder: Path
    outputs: list[str] = field(default_factory=list)

    def finish(self, artefact: Artefact) -> None:
        """Write the marker."""
        marker = self.folder / artefact.marker.name if artefact.marker.parent == artefact.folder else artefact.marker
        hashes = {
            name: {"bytes": (self.folder / name).stat().st_size, "sha256": file_digest(self.folder / name)}
            for name in sorted(self.outputs)
        }
        write_json(marker, {"stage": artefact.stage, **_identity(artefact), "outputs": hashes})


@contextlib.contextmanager
def making(artefact: Artefact, fresh: bool = False) -> Iterator[Making | None]:
    """Own an artefact while the block makes it; yields None, and says so, where it is up to date already.

    A shared artefact is built in a folder beside its own, which stays when the block is cut off so that the next try
    can go on, and is moved in when whole. Others are built in place. Raises InputError where another process owns the
    folder of a run, or where a fold was trained with other settings or data.
    """
    shared = artefact.folder.parent.name == "cache" or artefact.folder == DEMO
    guarded = artefact.folder if artefact.marker.parent == artefact.folder else artefact.marker
    with lock(guarded, artefact.stage, wait=shared):
        reason = "--fresh" if fresh else outdated(artefact)
        print(f"{artefact.stage}: {artefact.folder}: {reason or 'up to date'}", flush=True)
        if not reason:
            yield None
            return
        if artefact.stage == "train":
            _make_way_for_fold(artefact, fresh)
        folder = _growing(artefact, fresh) if shared else artefact.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not shared:
            artefact.marker.unlink(missing_ok=True)
        work = Making(folder)
        yield work
        work.finish(artefact)
        if shared:
            (folder / "started.json").unlink(missing_ok=True)
            shutil.rmtree(artefact.folder, ignore_errors=True)
            os.replace(folder, artefact.folder)


def _growing(artefact: Artefact, fresh: bool) -> Path:
    """The folder in which a shared artefact grows; what an earlier try with other code left there is removed."""
    folder = artefact.folder.with_name(f".{artefact.folder.name}.partial")
    started = folder / "started.json"
    if fresh or not started.is_file() or read_json(started) != _identity(artefact):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(started, _identity(artefact))
    return folder


def _make_way_for_fold(artefact: Artefact, fresh: bool) -> None:
    """Start a fold, go on with it, or refuse: what was trained with other settings or data is never overwritten."""
    started, now = artefact.folder / "started.json", _identity(artefact)
    if fresh:
        shutil.rmtree(artefact.folder, ignore_errors=True)
    if started.is_file():
        was = read_json(started)
        differences = _differences(was["settings"], now["settings"])
        differences += [f"its {k} changed" for k in now["inputs"] if was["inputs"].get(k) != now["inputs"][k]]
        if differences:
            raise InputError(
                f"{artefact.folder} was trained otherwise ({'; '.join(differences)}); "
                "keep it and choose another run.name=NAME, or replace it with --fresh"
            )
        if was["code"] != now["code"] and artefact.record():
            earlier = artefact.folder.with_name(f"{artefact.folder.name}.earlier")
            shutil.rmtree(earlier, ignore_errors=True)
            os.replace(artefact.folder, earlier)
            print(f"train: the fold trained with other code is kept as {earlier}", flush=True)
        elif was["code"] != now["code"]:
            print(f"train: {artefact.folder} was begun with other code; going on (--fresh starts over)", flush=True)
    remove_leftovers(artefact.folder)
    write_json(started, now)


def require(settings: Settings, stage: str) -> None:
    """Have every stage before `stage` that is missing what this one needs run, each as a process of its own.

    An output made by other code counts as there: only its own stage, called by name, makes it again.
    Raises InputError where that process fails; it has printed why.
    """
    tree_signature.cache_clear()
    for earlier in STAGES[: STAGES.index(stage)]:
        if all(not outdated(artefact, code=False) for artefact in artefacts(earlier, settings)):
            continue
        print(f"{stage}: needs {earlier} first", flush=True)
        command = [sys.executable, "-m", f"src.{earlier}", *as_arguments(settings)]
        outside = {k: v for k, v in os.environ.items() if k not in _TORCHRUN}
        outside |= {"STAGES_END_WITH_PARENT": str(os.getpid())}
        if subprocess.run(command, env=outside).returncode:
            raise InputError(f"{stage} cannot go on without {earlier}, which failed: see above")
        tree_signature.cache_clear()

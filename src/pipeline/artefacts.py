"""What a stage makes, and whether it is up to date.

An `Artefact` is a folder, and beside its files a marker, written last, that holds the settings, the content hashes of
the inputs, the hash of each file of code, the content hashes of the outputs and the seconds of the last try.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import digest, digest_of, file_digest, read_json, remove_leftovers, write_json
from src.base.locks import lock
from src.pipeline.source_code import code_of, other_code
from src.settings.former_names import translated
from src.settings.keys import defaults

_IDENTITY = ("settings", "inputs", "code")
_STARTED = "started.json"
_HASHED_UP_TO = 64 * 2**20  # a larger output is recognised by its size, to keep the check of a finished stage quick
_SYSTEM_FILES = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.~lock\..*|\.nfs.*", re.IGNORECASE | re.DOTALL)
"""Files that no user put there: of macOS, Windows, LibreOffice and network file systems."""


@dataclass(frozen=True)
class Artefact:
    """What a stage makes (`folder`, `marker`) and everything that it is made from (`settings`, `inputs`).

    shared: runs use it together, so that who misses it waits for who makes it. guard: a file of that folder which
    several runs write, one after another; it is locked in place of the folder.
    """

    stage: str
    folder: Path
    marker: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    shared: bool = False
    guard: Path | None = None

    def record(self) -> dict | None:
        """The marker's content, or None where the stage has not finished. Raises InputError for another file."""
        return _read_record(self.marker, *_IDENTITY, "outputs") if self.marker.is_file() else None


def _read_record(path: Path, *keys: str) -> dict:
    record = read_json(path)
    if not isinstance(record, dict) or not record.keys() >= set(keys):
        raise InputError(f"{path} is not what this program wrote; remove it and run again")
    return record


@cache
def tree_signature(root: Path, *left_out: Path) -> str:
    """Hash of every file's relative path, size and time of change below `root`, links followed.

    The folders `left_out` do not count, nor do hidden ones, nor files that systems and editors leave behind. Raises
    InputError where there is no such folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"data.root={root}: {what}; it must hold train.csv and test.csv (see data/README.md)")
    entries, seen, skipped = [], set(), {os.path.realpath(folder) for folder in left_out}
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inner = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        folders[:] = [name for name in inner if os.path.realpath(os.path.join(folder, name)) not in skipped]
        seen.add(real)
        for name in names:
            if _SYSTEM_FILES.fullmatch(name):
                continue
            with contextlib.suppress(OSError):  # a dangling link is reported where its photo is read
                status = os.stat(os.path.join(folder, name))
                entries.append(f"{os.path.relpath(folder, root)}/{name} {status.st_size} {status.st_mtime_ns}")
    return digest("\n".join(sorted(entries)).encode("utf-8", "surrogateescape"))  # a name may be any bytes


def outputs_digest(artefact: Artefact) -> str:
    """Hash of what an artefact holds, the same wherever and whenever it was made."""
    record = artefact.record()
    return "missing" if record is None else digest_of({k: v["sha256"] for k, v in record["outputs"].items()})


def _differences(was: dict, now: dict) -> list[str]:
    """The settings that differ from a record's; one that it lacks had its default, one that is gone is ignored."""
    then = defaults() | translated(was)
    return [f"{key} was {then.get(key)}, is {value}" for key, value in now.items() if then.get(key) != value]


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
    if damage := _damage(artefact, record):
        return damage
    return other_code(record["code"], artefact.stage) if code else ""


def _damage(artefact: Artefact, record: dict) -> str:
    """The first output that is not as it was written, or ""."""
    for name, output in record["outputs"].items():
        path = artefact.folder / name
        if not path.is_file() or path.stat().st_size != output["bytes"]:
            return f"{path} is missing or was changed"
        if output["bytes"] <= _HASHED_UP_TO and file_digest(path) != output["sha256"]:
            return f"{path} was changed"
    return ""


def _identity(artefact: Artefact) -> dict:
    return {"settings": artefact.settings, "inputs": artefact.inputs, "code": code_of(artefact.stage)}


@dataclass
class Making:
    """An artefact being made: the folder to write in, and the names of its files that count, to be filled.

    notes: names of files from which a next try would go on; a shared artefact is rid of them once it is moved in.
    """

    folder: Path
    outputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def finish(self, artefact: Artefact) -> None:
        """Write the marker."""
        marker = self.folder / artefact.marker.name if artefact.marker.parent == artefact.folder else artefact.marker
        hashes = {
            name: {"bytes": (self.folder / name).stat().st_size, "sha256": file_digest(self.folder / name)}
            for name in sorted(self.outputs)
        }
        record = {"stage": artefact.stage, **_identity(artefact), "outputs": hashes}
        write_json(marker, record | {"seconds": round(time.monotonic() - self.began, 1)})


def record_digest(marker: Path) -> str:
    """Hash of a marker but for its seconds, which are no part of a result: that of the file as it was without them."""
    record = {key: value for key, value in read_json(marker).items() if key != "seconds"}
    return digest(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _owned(artefact: Artefact) -> contextlib.AbstractContextManager:
    """Its lock; raises InputError where another process owns the folder of a run."""
    return lock(artefact.guard or artefact.folder, artefact.stage, artefact.shared or artefact.guard is not None)


def mark_unfinished(artefact: Artefact) -> None:
    """Remove the marker, so that no other process takes the artefact for up to date."""
    with _owned(artefact):
        artefact.marker.unlink(missing_ok=True)


@contextlib.contextmanager
def making(artefact: Artefact, fresh: bool = False) -> Iterator[Making | None]:
    """Own an artefact while the block makes it; yields None, and says so, where it is up to date already.

    A shared artefact is built in a folder beside its own, which stays when the block is cut off so that the next try
    can go on, and is moved in when whole. Others are built in place. Raises InputError where another process owns the
    folder of a run, or where a fold was trained with other settings or data.
    """
    with _owned(artefact):
        reason = "--fresh" if fresh else outdated(artefact)
        print(f"{artefact.stage}: {artefact.folder}: {reason or 'up to date'}", flush=True)
        if not reason:
            yield None
            return
        if artefact.stage == "train":
            _make_way_for_fold(artefact, fresh)
        folder = _growing(artefact, fresh) if artefact.shared else artefact.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not artefact.shared:
            artefact.marker.unlink(missing_ok=True)
            remove_leftovers(folder)
        work = Making(folder)
        yield work
        work.finish(artefact)
        if artefact.shared:
            _move_in(folder, artefact.folder)
            for note in (_STARTED, *work.notes):  # until here they keep a next try from starting over
                (artefact.folder / note).unlink(missing_ok=True)


def _move_in(folder: Path, place: Path) -> None:
    """Put a finished folder in its place, which is never without one for longer than a rename takes."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(folder, place)
    shutil.rmtree(old, ignore_errors=True)


def _growing(artefact: Artefact, fresh: bool) -> Path:
    """The folder in which a shared artefact grows; what an earlier try with other code left there is removed."""
    folder = artefact.folder.with_name(f".{artefact.folder.name}.partial")
    started = folder / _STARTED
    if fresh or not started.is_file() or read_json(started) != _identity(artefact):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(started, _identity(artefact))
    return folder


def mark_begun(artefact: Artefact, folder: Path) -> None:
    """Write to a folder, before it is put in a fold's place, what that fold is trained from."""
    write_json(folder / _STARTED, _identity(artefact))


def inputs_of_begun_fold(folder: Path) -> dict[str, str]:
    """The content hashes of what a fold that has weights is trained from; none where nothing in it is worth keeping."""
    started = folder / _STARTED
    if not started.is_file() or not any(folder.glob("*.pt")):
        return {}
    return _read_record(started, *_IDENTITY)["inputs"]


def _make_way_for_fold(artefact: Artefact, fresh: bool) -> None:
    """Start a fold, go on with it, or refuse: what was trained with other settings or data is never overwritten."""
    started, now = artefact.folder / _STARTED, _identity(artefact)
    if fresh or not any(artefact.folder.glob("*.pt")):  # nothing in it is worth keeping
        shutil.rmtree(artefact.folder, ignore_errors=True)
    if started.is_file():
        was = _read_record(started, *_IDENTITY)
        differences = _differences(was["settings"], now["settings"])
        differences += [f"its {k} changed" for k in now["inputs"] if was["inputs"].get(k) != now["inputs"][k]]
        if differences:
            raise InputError(
                f"{artefact.folder} was trained otherwise ({'; '.join(differences)}); "
                "keep it and choose another run.name=NAME, or replace it with --fresh"
            )
        record = artefact.record()
        if record and (damage := _damage(artefact, record)):
            raise InputError(f"{damage} after training had finished; --fresh trains {artefact.folder} again")
        other = other_code(was["code"], artefact.stage)
        if other and record:
            earlier = artefact.folder.with_name(f"{artefact.folder.name}.earlier")
            shutil.rmtree(earlier, ignore_errors=True)
            os.replace(artefact.folder, earlier)
            print(f"train: the fold trained with other code is kept as {earlier}", flush=True)
        elif other:
            print(f"train: {artefact.folder}: {other} since it was begun; going on (--fresh starts over)", flush=True)
    write_json(started, now)

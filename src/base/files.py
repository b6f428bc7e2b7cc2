"""Files that are whole or absent, locks that die with their owner, and the record of where a result came from."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from src.base.errors import InputError


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from the block names `path` where it names none, as on a full disk, or a temporary one beside it."""
    try:
        yield
    except OSError as error:
        named = os.path.basename(error.filename or "")
        if error.errno is not None and (not named or named.startswith(f".{path.name}.")):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError where it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); remove it and run again") from None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes were killed."""
    for leftover in Path(folder).glob(".*.tmp"):
        process = leftover.name.split(".")[-2]
        if leftover.is_file() and process.isdecimal() and not Path("/proc", process).exists():
            leftover.unlink(missing_ok=True)


def digest(content: bytes | str) -> str:
    """SHA-256 of bytes or text, in hex."""
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(folder: Path, purpose: str, wait: bool) -> Iterator[None]:
    """Own `folder` while the block runs. The lock lies beside the folder and dies with its process.

    wait: stand in line behind the present owner; else raise InputError that names it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                raise InputError(f"{folder} is in use by {holder}; wait for it, or choose another run.name") from None
            print(f"{folder}: waiting for {holder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        owner = f"process {os.getpid()} on {socket.gethostname()} ({purpose}, since {time.strftime('%F %T')})"
        with naming(path):
            os.write(file.fileno(), owner.encode())  # unbuffered: what a full disk refuses is not tried again
        try:
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place once the block has succeeded."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.new.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _hardware() -> dict[str, Any]:
    """What the last bits of a number depend on: the processor, the GPUs, the threads of numpy and scikit-learn."""
    found = []
    for path in [Path("/proc/cpuinfo"), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model"))
        found.append(next((name for name in named if not name.isdecimal()), platform.processor()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": found[0], "gpus": found[1:], "threads": os.environ.get("OMP_NUM_THREADS") or str(cores)}


def provenance(versions_of: Callable[[str], str], packages: list[str]) -> dict:
    """What a result was made with: git commit, Python, machine, threads and package versions.

    versions_of: usually importlib.metadata.version.
    """
    changes = _git("status", "--porcelain", "--", ".")
    return {
        "git": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **_hardware(),
        "packages": {name: versions_of(name) for name in packages},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }

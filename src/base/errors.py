"""Errors that a user can mend, and how a stage reports them: one line, no traceback, a non-zero exit."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from src.base.machine import end_with_parent
from src.base.text import one_line


class InputError(Exception):
    """Something the user gave cannot be used. The message says what, where and what to do, in one line."""


class Stopped(BaseException):
    """The user or the system asked the program to stop, and it did so cleanly.

    `signal` is the number of that signal; the process ends with 128 + signal, as shells expect.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


_HINTS = {
    errno.ENOSPC: "the disk is full: make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up: make room and run the same command again",
    errno.EROFS: "the folder is read-only: choose another with run.root=FOLDER",
    errno.EACCES: "permission denied: check who owns it, or choose another place with run.root=FOLDER",
    errno.EPERM: "not permitted: choose another place with run.root=FOLDER",
    errno.ENOTDIR: "a file is where a folder is needed: move it away, or choose another place with run.root=FOLDER",
    errno.EEXIST: "a file is where a folder is needed: move it away, or choose another place with run.root=FOLDER",
    errno.EISDIR: "a folder is where a file is needed: move it away",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EFBIG: "larger than files may be here: raise the limit with ulimit -f",
    errno.EIO: "the disk reports an error: look at its diagnostics, choose another place with run.root=FOLDER",
    errno.EMFILE: "too many open files: raise the limit with ulimit -n",
}

_GO_ON = "The same command, without --fresh, goes on from the last checkpoint"

_RUNTIME_HINTS = {
    "can't allocate memory": "the memory is too small: lower train.batch_size, view.size or the widths of decoder.*",
    "Storage size calculation overflowed": "no memory is large enough: lower view.size or the widths of decoder.*",
    "loading state_dict": "a checkpoint in the run's folder is of another network: remove it, or train with --fresh",
    "out of memory": "the GPU's memory is full: lower train.batch_size, or raise train.accumulation_steps",
    "Timed out waiting": "another process of this training did not answer for 10 minutes. " + _GO_ON,
    "gloo/transport": "another process of this training ended; what it printed says why. " + _GO_ON,
    "remote process exiting": "another process of this training ended; what it printed says why. " + _GO_ON,
    "DataLoader worker": "a process that loads photos ended, often because shared memory is full (docker: --shm-size): "
    "set run.workers=0, or give it more memory",
}


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{_HINTS.get(error.errno or 0, error.strerror)}")
    return one_line(str(error))


def hint_of(error: RuntimeError) -> str | None:
    """What a user can do about an error of torch, such as memory that is too small; None where it is not known."""
    return _RUNTIME_HINTS.get(next((words for words in _RUNTIME_HINTS if words in str(error)), ""))


def _stop(number: int, _) -> NoReturn:
    raise Stopped("the same command, without --fresh, goes on", number)


def guarded(main: Callable[[], None]) -> None:
    """Run a stage's `main` as a program: errors that a user can mend become one line on stderr.

    Exit codes: 0 done, 1 an error, 2 a wrong argument or setting, 128 + n stopped by signal n. Anything else is
    a fault of this program and keeps its traceback.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell script's background processes would else ignore Ctrl-C
    try:
        main()
        if sys.stdout is not None:  # closed from the start
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stop:
        print(f"stopped: {_line(stop)}", file=sys.stderr)
        sys.exit(128 + stop.signal)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("src"):
            raise
        setup = "./run.sh sets up .venv (then: .venv/bin/python -m src.…), or pip install -r requirements.txt"
        print(f"error: the package {error.name} is not installed for {sys.executable}; {setup}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        hint = hint_of(error)
        if hint is None:
            raise
        print(f"error: {hint}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: the memory is too small for these settings: lower view.size or train.batch_size", file=sys.stderr)
        sys.exit(1)
    except (InputError, OSError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        sys.exit(1)

"""Stages as programs whose processes are forked from one that has imported the packages: a start takes no seconds.

A `sitecustomize.py` with `CLIENT` hands a `python -m src.STAGE` over: arguments, folder, variables, and where it reads
and prints. One with `FORKING` has a `python -m src.STAGE` import the packages at once, and fork the stages that it
starts: they are its own children, in its group and session, as if they had been started. `start_stage` does the same
for a test. Either way a stage imports all of `src` itself, from the folder that it was started in.
"""

import atexit
import contextlib
import gc
import importlib
import inspect
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = [
    "albumentations", "cv2", "filelock", "matplotlib.backends.backend_agg", "matplotlib.figure", "nltk", "optuna",
    "pandas", "scipy.optimize", "scipy.stats", "sklearn.ensemble", "sklearn.linear_model", "sklearn.svm", "timm",
    "torch._dynamo", "torch._inductor", "torch.utils.data", "torch.utils.tensorboard", "torchvision",
]  # fmt: skip
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    started = dict(module=module, arguments=sys.argv[1:], folder=os.getcwd(), variables=dict(os.environ))
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps(started).encode())
    server.shutdown(socket.SHUT_WR)
    answer = server.recv(16)
os._exit(int(answer or 1))
"""
"""Runs after code that has set `module`."""


FORKING = f"""
import sys
options = sys.orig_argv[1:]
if options[:1] == ["-m"] and options[1] in {{modules!r}}:
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("warm_python", {__file__!r})
    sys.modules["warm_python"] = warm = module_from_spec(spec)
    spec.loader.exec_module(warm)
    warm.fork_stages({{more!r}})
"""
"""Of the programs `modules`; `more` is imported, too."""


def _import_packages(more: Iterable[str] = ()) -> None:
    for package in [*PACKAGES, *more]:
        importlib.import_module(package)
    gc.freeze()  # no process that is forked need look through them, and copy them


def fork_stages(more: Iterable[str] = ()) -> None:
    """Import the packages and `more`, and have stages forked from this process from now on."""
    _import_packages(more)
    subprocess.Popen = Forking  # type: ignore[misc]


class Forking(subprocess.Popen):
    """Forks this process where `python -m src.STAGE` would be started."""

    def _execute_child(self, *arguments: object) -> None:
        given = inspect.signature(super()._execute_child).bind(*arguments).arguments
        command = [word for word in given["args"] if word != "-u"]
        if command[:2] != [sys.executable, "-m"] or command[2][:4] != "src.":
            super()._execute_child(*arguments)
            return
        folder, variables = given["cwd"] or os.getcwd(), dict(given["env"] or os.environ)
        started = dict(module=command[2], arguments=command[3:], folder=folder, variables=variables)
        sys.stdout.flush(), sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        self.pid = os.fork()
        if not self.pid:
            _reset_signals(before)
            if given["start_new_session"]:
                os.setsid()
            files = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
            _run(started, [number if file == -1 else file for number, file in enumerate(files)])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in inspect.signature(self._close_pipe_fds).parameters))


def _reset_signals(mask: Iterable[int]) -> None:
    """As in a new process: this one alone hears of its signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Stage:
    """A process of `start_stage`."""

    def __init__(self, process: Any, output: Path):
        self._process, self._output = process, output
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed, and its errors, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it still runs"
        printed, errors = (Path(f"{self._output}.{file}").read_text(errors="replace") for file in (1, 2))
        return printed, errors


def start_stage(folder: Path, module: str, arguments: list[str], variables: dict[str, str], output: Path) -> Stage:
    """`python -m MODULE` in a folder, forked by multiprocessing's server, in a session of its own.

    The stages that it starts are forked, too. output: the beginning of the names of files for what it prints.
    """
    started = dict(module=module, arguments=arguments, folder=str(folder), variables=variables)
    process = multiprocessing.get_context("forkserver").Process(target=_begin, args=(started, str(output)))
    process.start()
    return Stage(process, output)


def _begin(started: dict, output: str) -> None:
    os.setsid()
    _reset_signals([])
    files = [os.open(f"{output}.{file}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in (1, 2)]
    fork_stages()
    _run(started, [os.open(os.devnull, os.O_RDONLY), *files])


@contextlib.contextmanager
def warm_python(path: Path) -> Iterator[None]:
    """A process that listens at a socket inside the block; whatever it forked is killed at the end."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, str(path)], env=variables, start_new_session=True)
    try:
        while not path.exists():
            assert process.poll() is None, "it has printed why"
            time.sleep(0.02)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run(started: dict, files: list[int]) -> NoReturn:
    """Be a stage, which reads and prints in `files`, and end. The variable RUNS_FIRST names a file to run before."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(started["folder"])
    os.environ.clear()
    os.environ.update(started["variables"])
    sys.argv = ["-m", *started["arguments"]]
    sys.path[:0] = filter(None, [started["folder"], *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "src"]:
        del sys.modules[name]
    code = 0
    try:
        if first := os.environ.get("RUNS_FIRST"):
            runpy.run_path(first)
        runpy.run_module(started["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def _answer(client: socket.socket) -> None:
    """Fork a process for a stage, wait for it, and say how it ended."""
    _, files, *_ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as text:
        started = json.load(text)
    started["variables"].pop("STAGES_END_WITH_PARENT", None)  # its parent is this program
    if not (stage := os.fork()):
        _run(started, files)
    client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1]) % 256).encode())


def _serve(path: str) -> None:
    _import_packages()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path + ".new")
        server.listen()
        os.rename(path + ".new", path)
        while True:
            client, _ = server.accept()
            with client:
                if not os.fork():
                    server.close()
                    _answer(client)
                    os._exit(0)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # those that have answered before
                    pass


if __name__ == "__main__":
    _serve(sys.argv[1])

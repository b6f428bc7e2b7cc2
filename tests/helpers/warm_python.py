"""Stages as programs whose processes are forked from one that has imported the packages: a start takes no seconds.

A `sitecustomize.py` with `CLIENT` hands a `python -m src.STAGE` over: arguments, folder, variables, and where it reads
and prints. The stage imports all of `src` itself, from the folder that it was started in, and gives its exit code.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

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


def _run(started: dict, files: list[int]) -> int:
    """Run a stage in this process; returns its exit code."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(started["folder"])
    os.environ.clear()
    os.environ.update(started["variables"])
    os.environ.pop("STAGES_END_WITH_PARENT", None)  # its parent is this program
    sys.argv, sys.path[0] = ["", *started["arguments"]], started["folder"]
    try:
        runpy.run_module(started["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _answer(client: socket.socket) -> None:
    """Fork a process for a stage, wait for it, and say how it ended."""
    _, files, *_ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as text:
        started = json.load(text)
    if not (stage := os.fork()):
        code = _run(started, files)
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1]) % 256).encode())


def _serve(path: str) -> None:
    for package in PACKAGES:
        importlib.import_module(package)
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

"""What differs between operating systems stands in one file, and nothing needs what only one of them has."""

import ast
import errno
import functools
import importlib
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src import preprocess
from src.base import machine
from tests.conftest import TINY
from tests.helpers import bad_input

REPOSITORY = Path(__file__).parents[2]
NOT_EVERYWHERE = {"sched_getaffinity", "fdatasync", "getuid", "geteuid", "fork", "killpg", "setsid", "getppid", "kill"}
NOT_EVERYWHERE |= {
    "SIGKILL",
    "SIGSTOP",
    "SIGHUP",
    "SIGALRM",
    "prctl",
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "posix_fallocate",
}
GUARDS = {"OSError", "AttributeError", "ImportError"}


def uses(tree: ast.AST) -> list[str]:
    """What a file uses that some system lacks, outside of a try that expects its absence."""
    if isinstance(tree, ast.Try):
        caught = {
            name.id
            for handler in tree.handlers
            for name in ast.walk(handler.type or tree)
            if isinstance(name, ast.Name)
        }
        if caught & GUARDS:
            return [use for part in (*tree.handlers, *tree.orelse, *tree.finalbody) for use in uses(part)]
    names = []
    if isinstance(tree, ast.Attribute) and tree.attr in NOT_EVERYWHERE:
        names = [ast.unparse(tree)] if ast.unparse(tree.value) in ("os", "signal") or tree.attr == "prctl" else []
    elif isinstance(tree, (ast.Import, ast.ImportFrom)):
        modules = {alias.name for alias in tree.names} | {getattr(tree, "module", None)}
        names = sorted(modules & NOT_EVERYWHERE)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str) and tree.value.startswith("/proc"):
        names = [tree.value]
    elif isinstance(tree, ast.Call) and ast.unparse(tree.func).endswith("get_context"):
        names = [ast.unparse(tree)] if any(isinstance(a, ast.Constant) and "fork" in a.value for a in tree.args) else []
    return names + [use for child in ast.iter_child_nodes(tree) for use in uses(child)]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os\nos.fdatasync(3)", ["os.fdatasync"]),
        ("import fcntl", ["fcntl"]),
        ("from signal import SIGKILL", ["SIGKILL"]),
        ("multiprocessing.get_context('fork')", ["multiprocessing.get_context('fork')"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("try:\n    Path('/proc/1')\nexcept ValueError:\n    pass", ["/proc/1"]),
        ("process.kill()", []),
    ],
)
def test_uses_are_seen(code, found):
    assert uses(ast.parse(code)) == found


@pytest.mark.parametrize("path", sorted((REPOSITORY / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_only_one_file_asks_for_what_is_not_everywhere(path):
    if path != REPOSITORY / "src" / "base" / "machine.py":
        assert not uses(ast.parse(path.read_text(encoding="utf-8")))


def other_system(folder: Path, settings: list[str]) -> None:
    """Run stages without what Linux has, in a process that has not imported src yet."""
    os.chdir(folder)
    for name in ("sched_getaffinity", "fdatasync", "getuid", "geteuid", "killpg", "setsid", "posix_fallocate"):
        delattr(os, name)
    for name in ("SIGKILL", "SIGSTOP", "SIGALRM"):
        delattr(signal, name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("src", "filelock")]:
        del sys.modules[name]
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    os.environ |= {"STAGES_END_WITH_PARENT": str(os.getpid()), "USER": "someone"}  # torch asks for it
    machine, errors = (importlib.import_module(f"src.base.{name}") for name in ("machine", "errors"))
    machine.sys = type("sys", (), {"platform": "win32"})
    machine.Path = type("Path", (type(machine.Path()),), {"is_file": lambda path: False, "exists": lambda path: False})
    for stage in ("preprocess", "split", "train"):
        errors.guarded(functools.partial(importlib.import_module(f"src.{stage}").main, settings))


@pytest.mark.slow
def test_stages_run_where_linux_s_own_functions_are_absent(competition, tmp_path):
    settings = [f"data.root={competition}", *TINY, "task=mos", "train.epochs=1", "run.workers=1", "--fold=0"]
    process = multiprocessing.get_context("forkserver").Process(target=other_system, args=(tmp_path, settings))
    process.start()
    process.join(300)
    assert process.exitcode == 0, "it has printed why"
    assert (tmp_path / "runs" / "demo" / "fold-0" / "best-mos.pt").is_file()


def test_cores_are_those_of_the_affinity_and_of_the_container_s_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert machine.usable_cores() == 6
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cores() == 6, "version 1 says -1 where there is no limit"
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    assert machine.usable_cores() == 4
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == 4
    for quota, cores in (("250000", 3), ("1000", 1), ("9900000", 6)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert machine.usable_cores() == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize("proc", [True, False])
def test_a_process_that_ended_is_known_with_and_without_proc(proc, monkeypatch):
    if not proc:
        monkeypatch.setattr(machine, "Path", lambda *parts: Path("nowhere", *parts[1:]))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert machine.process_exists(process.pid) and machine.process_exists(os.getpid())
    process.communicate()
    assert not machine.process_exists(process.pid)


def test_processes_side_by_side_fit_into_the_container_s_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # version 1 has no other "none"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.usable_processes(1e-6) == 6 and machine.usable_processes(1e-6, threads=4) == 1
    for limit, processes in (("4000000000", 4), ("1500000000", 1), ("300000000", 1)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert machine.usable_processes(1.0) == processes
    monkeypatch.delattr(os, "sysconf_names")  # as on Windows
    (tmp_path / "memory.max").unlink()
    assert machine.usable_processes(1000.0) == 6
    (tmp_path / "memory" / "memory.limit_in_bytes").unlink()
    assert machine.usable_processes(1000.0) == 6, "nothing says how much there is"


FREES_48_MB = """
import os
from pathlib import Path
import numpy as np
from src.base import errors

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

{call}
before = resident()
arrays = [np.ones(2**18) for _ in range(24)]
del arrays
print(resident() - before)
"""


def kept_memory(call: str) -> float:
    """MB that a process of its own, after that call, keeps of 48 MB that it has freed."""
    command = [sys.executable, "-c", FREES_48_MB.format(call=call)]
    return float(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library manages memory in its own way")
def test_commands_keep_freed_memory():
    assert kept_memory("errors.guarded(lambda: None)") > 40
    assert kept_memory("") < 8


@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits the addresses of a process")
def test_a_limit_of_memory_that_holds_no_packages_is_said_in_a_line():
    load_torch = "from src.base import errors; errors.guarded(lambda: __import__('torch'))"
    command = ["bash", "-c", 'ulimit -v 400000; "$@"', "", sys.executable, "-c", load_torch]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: the memory") and "ulimit -v" in line


@pytest.mark.parametrize(("platform", "processes"), [("win32", 61), ("linux", 200)])
def test_windows_has_no_pool_of_more_processes_than_it_can_wait_for(platform, processes, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 200)
    monkeypatch.setattr(machine, "sys", type("sys", (), {"platform": platform}))
    assert machine.usable_processes(1e-6) == processes


def test_space_is_reserved_where_the_system_can(tmp_path, monkeypatch):
    def fail(code):
        raise OSError(code, os.strerror(code))

    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(b"begin")
        file.truncate(1 << 20)
    machine.reserve_space(path)
    assert path.stat().st_size == 1 << 20 and path.read_bytes().rstrip(b"\0") == b"begin"
    if hasattr(os, "posix_fallocate"):
        assert path.stat().st_blocks * 512 >= 1 << 20
    for code in (errno.EINVAL, errno.EOPNOTSUPP):
        monkeypatch.setattr(os, "posix_fallocate", lambda *_, code=code: fail(code), raising=False)
        machine.reserve_space(path)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: fail(errno.ENOSPC), raising=False)
    with pytest.raises(OSError, match="No space left"):
        machine.reserve_space(path)
    monkeypatch.delattr(os, "posix_fallocate")
    machine.reserve_space(path)


def test_stages_are_tried_on_bad_input_where_linux_s_own_functions_are_absent(tmp_path, monkeypatch):
    for name in ("sched_getaffinity", "geteuid"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.chdir(tmp_path)
    bad_input.hurry(monkeypatch)
    assert machine.usable_cores() == 1
    assert bad_input.exit_code(preprocess, "data.root=nowhere") == 1

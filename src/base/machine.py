"""What differs between Linux, macOS and Windows: no other file asks the operating system for it."""

import contextlib
import ctypes
import errno
import math
import os
import signal
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MOST_ON_WINDOWS = 61
"""Processes of a pool: Windows waits for no more at a time."""
_MALLOC_OPTIONS = {-1: 256 * 2**20, -3: 32 * 2**20, -8: 1}
"""Of glibc (man mallopt): M_TRIM_THRESHOLD, the bytes that are kept free; M_MMAP_THRESHOLD, the size from which on
memory always goes back at once, the most that any version takes; M_ARENA_MAX, as each arena keeps its own."""


def usable_cores() -> int:
    """The processor cores that this process may use: by its affinity and its container's quota, else all of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_quota())))


def usable_processes(gigabytes: float, threads: int = 1) -> int:
    """How many processes of so many threads keep the usable cores busy; fewer where memory does not hold them all."""
    most = _MOST_ON_WINDOWS if sys.platform == "win32" else math.inf
    return max(1, int(min(usable_cores() // threads, fitting_processes(gigabytes), most)))


def fitting_processes(gigabytes: float) -> float:
    """How many processes of so much memory the machine holds, with a fraction; infinite where nothing says it."""
    return _usable_memory() / 1e9 / gigabytes


def _usable_memory() -> float:
    """Bytes that the machine has, or its container may use; infinite where neither says."""
    names = getattr(os, "sysconf_names", {})
    countable = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if countable else math.inf]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for no limit
            limits.append(float((_CGROUP / name).read_text(encoding="ascii")))
    return min(limits)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next arrays, and all threads share it.

    By default it returns arrays of some megabytes to the system, which clears their pages before it hands them out
    again: a fifth of the time that a convolutional network takes on a CPU. With other C libraries nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for option, value in _MALLOC_OPTIONS.items():
            library.mallopt(option, value)


def return_freed_memory() -> None:
    """Have glibc give back to the system what was freed: it keeps all that lies below something still in use."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def _cpu_quota() -> float:
    """The cores' worth of time that a container is given (cgroup v2, then v1); infinite where nothing limits it."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            texts = [(_CGROUP / name).read_text(encoding="ascii") for name in (quota, period) if name]
            limit, length = map(float, " ".join(texts).split())
        except (OSError, ValueError):  # no such file, or "max" for no limit
            continue
        if limit > 0 and length > 0:
            return limit / length
    return math.inf


def largest_file() -> float:
    """Bytes that a file of this process may have; infinite where nothing limits it."""
    if sys.platform == "win32":
        return math.inf
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def process_exists(pid: int) -> bool:
    """Whether a process of that number runs on this machine; True where that cannot be known."""
    if Path("/proc/self").exists():
        return Path("/proc", str(pid)).exists()
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)  # signal 0 is never delivered: only the checks are made
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def sync_data(descriptor: int) -> None:
    """Have a file's content on the disk, without its times where the system can leave these out."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def reserve_space(path: Path) -> None:
    """Have the disk keep room for all of a file, where the system can: a full one shows now.

    Without it a write through a memory map ends the process by SIGBUS when the disk is full.
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return
    with open(path, "r+b") as file:
        try:
            allocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # where it cannot be done
                raise


def end_with_parent() -> None:
    """Where run.sh or torchrun is the parent, have the kernel end this process with it, so that no lock outlives it.

    Linux only; elsewhere a stage whose parent was killed works on to its end.
    """
    parent = os.environ.get("STAGES_END_WITH_PARENT")
    if sys.platform == "linux" and (parent or "TORCHELASTIC_RUN_ID" in os.environ):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if parent and os.getppid() != int(parent):  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)


def processor() -> str | None:
    """The processor's name, where the system says it in a file."""
    return _model(Path("/proc/cpuinfo"))


def gpus() -> list[str]:
    """The names of NVIDIA's GPUs, where their driver says them in files."""
    paths = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [name for name in map(_model, paths) if name]


def _model(path: Path) -> str | None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model"))
    return next((name for name in names if not name.isdecimal()), None)

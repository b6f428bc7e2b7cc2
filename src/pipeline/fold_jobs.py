"""Folds side by side: each is a process of its own, on a GPU of its own where there are several."""

import dataclasses
import math
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError, Stopped
from src.base.machine import fitting_processes, usable_processes
from src.base.stopping import time_to_finish
from src.base.text import one_line
from src.pipeline.runs import fold_log, run_folder
from src.pipeline.stages import start_stage
from src.settings.schema import Settings

_LOOK_EVERY = 0.2  # seconds between two looks at the processes
_GIGABYTES = 1.5  # of memory that training or predicting a fold takes on a CPU


@dataclass
class Job:
    """A fold's process, the file that holds what it prints, and its place among those that run at a time."""

    fold: int
    process: subprocess.Popen
    log: Path
    place: int
    began: float
    shown: int
    """Bytes of the file that were printed here, or are of an earlier process."""

    def relay(self) -> None:
        """Print the lines that it wrote since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self.shown)
            lines, newline, _ = file.read().rpartition(b"\n")
        self.shown += len(lines) + len(newline)
        for line in lines.decode(errors="replace").splitlines():
            print(f"fold {self.fold}: {one_line(line)}", flush=True)

    def report(self) -> None:
        """Print what is left, and one line: how it ended."""
        self.relay()
        code, seconds = self.process.returncode, time.monotonic() - self.began
        ended = f"ended with exit code {code} (see {self.log})" if code else "done"
        print(f"fold {self.fold}: {ended} after {seconds:.0f} s", flush=True)


def jobs_of(settings: Settings, gpus: int) -> int:
    """How many folds keep the machine busy that are trained or predicted side by side."""
    if settings.parallel != "none":
        return 1
    return settings.run.jobs or gpus or usable_processes(_GIGABYTES, settings.run.threads)


def shares_cores(settings: Settings, gpus: int) -> bool:
    """Whether more folds than `jobs_of` run at a time, on CPUs, so that no cores idle while a last one is alone."""
    return not gpus and not settings.run.jobs and fitting_processes(_GIGABYTES) >= 2 * jobs_of(settings, gpus)


def _jobs_for(folds: int, settings: Settings, gpus: int) -> int:
    """How many of so many folds run at a time: three, for example, share two cores from the start."""
    jobs = min(jobs_of(settings, gpus), folds)
    if jobs < 2 or not shares_cores(settings, gpus):
        return jobs
    return math.ceil(folds / (folds // jobs))


def gpu_of(place: int, gpus: int) -> str | None:
    """What CUDA_VISIBLE_DEVICES must be for a job to see one GPU, the next for each place; None without GPUs."""
    if not gpus:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[place % gpus] if visible else str(place % gpus)


def _start(stage: str, settings: Settings, fold: int, place: int, gpus: int, options: list[str]) -> Job:
    log, gpu = fold_log(run_folder(settings), fold, stage), gpu_of(place, gpus)
    log.parent.mkdir(parents=True, exist_ok=True)
    this_fold = dataclasses.replace(settings, train=dataclasses.replace(settings.train, fold=fold))
    with open(log, "a", encoding="utf-8") as file:
        shown = file.tell()
        process = start_stage(
            stage,
            this_fold,
            *options,
            environment={"PYTHONIOENCODING": "utf-8"} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
    print(f"fold {fold}: started{f' on GPU {gpu}' if gpu else ''}; it writes to {log}", flush=True)
    return Job(fold, process, log, place, time.monotonic(), shown)


def run_side_by_side(stage: str, settings: Settings, folds: list[int], options: list[str]) -> bool:
    """Run the stage on each of the folds, as many at a time as run.jobs says. One that fails lets the others finish.

    options: of the stage's command line, besides the settings. Returns False, with nothing done, where only one would
    run at a time. Raises InputError at the end where some failed, and Stopped where this process was asked to stop,
    once all have stopped.
    """
    import torch

    gpus = torch.cuda.device_count()
    jobs = _jobs_for(len(folds), settings, gpus)
    if jobs < 2:
        return False
    waiting, free, failed = list(folds), list(range(jobs)), []
    running: list[Job] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(stage, settings, waiting.pop(0), free.pop(0), gpus, options))
            time.sleep(_LOOK_EVERY)
            for job in running:
                job.relay()
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.place)
                failed += [job] if job.process.returncode else []
                job.report()
    except Stopped:
        with time_to_finish():  # they may be writing checkpoints
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()
                job.report()
        raise
    if failed:
        names = ", ".join(str(job.fold) for job in sorted(failed, key=lambda job: job.fold))
        raise InputError(
            f"{len(failed)} of {len(folds)} folds failed ({names}); what they printed is in "
            f"{fold_log(run_folder(settings), 'K', stage)}; the same command, without --fresh, does what is left"
        )
    return True

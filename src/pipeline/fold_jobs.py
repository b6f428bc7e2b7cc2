"""Folds trained side by side: each is a process of its own, on a GPU of its own where there are several."""

import dataclasses
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError, Stopped
from src.base.text import one_line
from src.pipeline.runs import fold_log, run_folder
from src.pipeline.stages import start_stage
from src.settings.schema import Settings

_LOOK_EVERY = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Job:
    """A fold's process, the file that holds what it prints, and its place among those that run at a time."""

    fold: int
    process: subprocess.Popen
    log: Path
    place: int
    began: float

    def report(self) -> None:
        """Print one line: how it ended, with what it printed last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        code = self.process.returncode
        ended = f"ended with exit code {code} (see {self.log})" if code else "trained"
        seconds = time.monotonic() - self.began
        print(f"fold {self.fold}: {ended} after {seconds:.0f} s: {one_line(lines[-1])}", flush=True)


def gpu_of(place: int, gpus: int) -> str | None:
    """What CUDA_VISIBLE_DEVICES must be for a job to see one GPU, the next for each place; None without GPUs."""
    if not gpus:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[place % gpus] if visible else str(place % gpus)


def _start(settings: Settings, fold: int, place: int, gpus: int, fresh: bool) -> Job:
    log, gpu = fold_log(run_folder(settings), fold), gpu_of(place, gpus)
    log.parent.mkdir(parents=True, exist_ok=True)
    this_fold = dataclasses.replace(settings, train=dataclasses.replace(settings.train, fold=fold))
    with open(log, "w" if fresh else "a", encoding="utf-8") as file:
        process = start_stage(
            "train",
            this_fold,
            *["--fresh"] * fresh,
            environment={} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
    print(f"fold {fold}: started{f' on GPU {gpu}' if gpu else ''}; it writes to {log}", flush=True)
    return Job(fold, process, log, place, time.monotonic())


def train_side_by_side(settings: Settings, folds: list[int], jobs: int, gpus: int, fresh: bool) -> None:
    """Train the folds, `jobs` at a time. One that fails lets the others finish.

    Raises InputError at the end where some failed, and Stopped where this process was asked to stop, once all have
    stopped.
    """
    waiting, free, failed = list(folds), list(range(jobs)), []
    running: list[Job] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(settings, waiting.pop(0), free.pop(0), gpus, fresh))
            time.sleep(_LOOK_EVERY)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.place)
                failed += [job] if job.process.returncode else []
                job.report()
    except Stopped:
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
            f"{fold_log(run_folder(settings), 'K')}; the same command, without --fresh, trains what is left"
        )

"""The stages in order, what each writes, and how one is started. `python -m` this runs them all, as run.sh does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from src.base.csv_files import read_rows
from src.base.errors import InputError, Stopped, guarded
from src.base.stopping import GO_ON, children_without_interrupts, time_to_finish
from src.pipeline import budget, outputs
from src.pipeline.artefacts import Artefact, outdated, tree_signature
from src.pipeline.resolved import DEMO, data_root, folds_of, has_networks, planned, search_plan, tuned
from src.pipeline.runs import rejected_path, run_folder
from src.settings.load import as_arguments, load
from src.settings.schema import Settings

_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


def _predictions(settings: Settings) -> list[Artefact]:
    return [*(outputs.fold_predictions(settings, fold) for fold in folds_of(settings)), outputs.predictions(settings)]


_WRITES: dict[str, Callable[[Settings], list[Artefact]]] = {
    "preprocess": lambda settings: [outputs.photos(settings), outputs.vocabulary(settings)],
    "split": lambda settings: [outputs.folds(settings)],
    "plan": lambda settings: [outputs.plan(settings)] if settings.run.minutes else [],
    "tune": lambda settings: [outputs.tuning(settings)] if search_plan(settings).trials else [],
    "train": lambda settings: [outputs.fold(settings, fold) for fold in folds_of(settings)],
    "predict": lambda settings: _predictions(settings) if has_networks(settings) else [],
    "ensemble": lambda settings: [outputs.ensemble(settings)],
    "evaluate": lambda settings: [outputs.score(settings)],
    "submit": lambda settings: [outputs.submission(settings)],
}
"""What each stage writes with given settings; what that is made from is among its inputs (see `outputs`)."""

STAGES = tuple(_WRITES)


def outputs_of(stage: str, settings: Settings) -> list[Artefact]:
    """What a stage writes with these settings; the stages after plan with what it chose, after tune with its winner."""
    place = STAGES.index(stage)
    after_plan, after_tune = (place > STAGES.index(earlier) for earlier in ("plan", "tune"))
    return _WRITES[stage](tuned(settings) if after_tune else planned(settings) if after_plan else settings)


def ensure_inputs(settings: Settings, stage: str) -> None:
    """Have every stage before `stage` that is missing what this one needs run, each as a process of its own.

    `settings` are those before tuning. An output made by other code counts as there: only its own stage, called by
    name, makes it again.
    Ends with that process's exit code where it fails; it has printed why.
    """
    tree_signature.cache_clear()
    for earlier in STAGES[: STAGES.index(stage)]:
        no_demo_yet = data_root(settings) == DEMO and settings.data.root is None and not outputs.demo().record()
        if (
            no_demo_yet
            or any(outdated(artefact, code=False) for artefact in outputs_of(earlier, settings))
            or (earlier == "preprocess" and _left_out_photos_unreported(settings))
        ):
            print(f"{stage}: needs {earlier} first", flush=True)
            _run_stage(earlier, settings)
            tree_signature.cache_clear()


def _left_out_photos_unreported(settings: Settings) -> bool:
    """Whether photos cannot be used, and this run does not know it yet, or may not do without them."""
    left_out, reported = outputs.photos(settings).folder / "rejected.csv", rejected_path(run_folder(settings))
    if not left_out.is_file() or not read_rows(left_out, ()):
        return False
    stops = settings.data.on_bad_photo == "stop"
    return stops or not reported.is_file() or reported.read_bytes() != left_out.read_bytes()


def start_stage(
    stage: str, settings: Settings, *options: str, environment: Mapping[str, str] | None = None, **popen: Any
) -> subprocess.Popen:
    """Start a stage as a process that does not outlive this one. popen: what subprocess.Popen takes."""
    return _start([f"src.{stage}", *as_arguments(settings), *options], environment, **popen)


def _start(arguments: list[str], environment: Mapping[str, str] | None = None, **popen: Any) -> subprocess.Popen:
    outside = {k: v for k, v in os.environ.items() if k not in _TORCHRUN}
    outside |= {"STAGES_END_WITH_PARENT": str(os.getpid()), **budget.started_environment(), **(environment or {})}
    with children_without_interrupts():  # while it starts, Python would answer one with a traceback
        return subprocess.Popen([sys.executable, "-m", *arguments], env=outside, **popen)


def _run_stage(stage: str, settings: Settings) -> None:
    _finish(stage, start_stage(stage, settings))


def _finish(stage: str, process: subprocess.Popen) -> None:
    """Wait for a stage, which is asked to stop when this process is. Ends as it does where it fails: it said why.

    Raises InputError where a signal ended it, since then it could say nothing.
    """
    try:
        process.wait()
    except Stopped as stop:
        with time_to_finish():  # it may be writing a checkpoint
            process.terminate()
            process.wait()
        if process.returncode < 0:  # it had not begun, and said nothing
            raise
        raise SystemExit(128 + stop.signal) from None
    if process.returncode < 0:
        ended_by = -process.returncode
        raise InputError(
            f"{stage} was ended by signal {ended_by} ({signal.strsignal(ended_by)}), often because memory ran out or "
            f"the disk is full; {GO_ON}"
        )
    if process.returncode:
        raise SystemExit(process.returncode)


def main(argv: list[str] | None = None) -> None:
    """Run every stage, each as a process of its own with these arguments, after a look at all that could end it."""
    arguments = sys.argv[1:] if argv is None else argv
    settings, options = load(arguments, "pipeline.stages", __doc__)
    with budget.clock(settings, options.fresh):
        for command in (["preprocess", "--check"], *([stage] for stage in STAGES)):
            _finish(command[0], _start([f"src.{command[0]}", *command[1:], *arguments]))


if __name__ == "__main__":
    guarded(main)

"""Folds trained at the same time, each in a process of its own, are those trained one after another."""

import os
import time
from pathlib import Path

import pytest

from src.base.locks import lock
from src.pipeline import fold_jobs
from src.pipeline.fold_jobs import gpu_of
from src.settings.load import build
from tests.conftest import TINY
from tests.helpers.ranks import run
from tests.helpers.warm_python import Stage, start_stage
from tests.training.test_distributed import ENVIRONMENT, results

FOLDS = (0, 1)


def start(folder: Path, *arguments: str) -> Stage:
    return start_stage(folder, "src.train", list(arguments), ENVIRONMENT, folder.parent / "printed")


def running(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and os.readlink(process / "cwd") == str(folder):
                found.append(process.name)
        except OSError:  # another user's, or it has ended
            continue
    return found


@pytest.mark.slow
def test_folds_side_by_side_are_stopped_fail_and_end_as_one_after_another(competition, tmp_path):
    (folder := tmp_path.resolve() / "work").mkdir()
    arguments = [f"data.root={competition}", *TINY, "task=mos", "train.epochs=12", "train.checkpoint_steps=1"]
    run(1, folder, "train", [*arguments, "run.name=after"])
    beside = [*arguments, "run.name=beside", "run.jobs=2"]
    places = [folder / "runs" / "beside" / f"fold-{fold}" for fold in FOLDS]
    logs = [place.with_name(f"train-{place.name}.log") for place in places]

    process = start(folder, *beside)
    while not all((place / "last.pt").exists() for place in places) and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 143 and errors.startswith("stopped: ") and errors.count("\n") == 1
    assert not running(folder)
    assert output.count("the same command, without --fresh, goes on") == 2

    with lock(places[1], "a test", wait=False):
        process = start(folder, *beside)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and errors.startswith("error: 1 of 2 folds failed (1)") and errors.count("\n") == 1
    assert "fold 1: ended with exit code 1" in output and "is in use by process" in output
    assert "fold 0: done after" in output and (places[0] / "done.json").exists()
    assert "error: " in logs[1].read_text()
    assert "going on from epoch" in logs[0].read_text()

    run(1, folder, "train", beside)  # what is left is one fold, which needs no process beside this one
    for fold in FOLDS:
        assert results(folder, "beside", fold) == results(folder, "after", fold)

    tables = []
    for name, jobs in (("after", 1), ("beside", 2)):
        run(1, folder, "predict", [*arguments, f"run.name={name}", f"run.jobs={jobs}"])
        predictions = folder / "runs" / name / "predictions"
        tables.append([(predictions / table).read_bytes() for table in ("oof.csv", "test.csv", "test_folds.csv")])
        assert (predictions.parent / "predict-fold-0.log").exists() == (jobs == 2)
    assert tables[0] == tables[1]


def test_gpus_are_dealt_in_turn(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_of(place, 2) for place in range(3)] == ["0", "1", "0"] and gpu_of(0, 0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f1e")
    assert [gpu_of(place, 2) for place in range(3)] == ["3", "GPU-5f1e", "3"]


@pytest.mark.parametrize(
    ("folds", "cores", "together"), [(3, 2, 3), (4, 2, 2), (5, 2, 3), (5, 4, 5), (7, 4, 7), (2, 4, 2), (3, 1, 1)]
)
def test_no_core_idles_while_a_last_fold_is_alone(folds, cores, together, monkeypatch):
    monkeypatch.setattr(fold_jobs, "usable_processes", lambda *_: cores)
    monkeypatch.setattr(fold_jobs, "fitting_processes", lambda _: 2.0 * cores)
    assert fold_jobs._jobs_for(folds, build([]), gpus=0) == together
    assert fold_jobs._jobs_for(folds, build([("run.jobs", "2", "test")]), gpus=0) == 2
    assert fold_jobs._jobs_for(folds, build([]), gpus=2) == 2, "a fold has a GPU to itself"
    monkeypatch.setattr(fold_jobs, "fitting_processes", lambda _: 2.0 * cores - 1)
    assert fold_jobs._jobs_for(folds, build([]), gpus=0) == min(folds, cores), "memory holds no more"


@pytest.mark.parametrize("given", ["parallel=dp", "parallel=ddp"])
def test_gpus_are_not_divided_twice(given, capsys):
    from src.settings.load import load

    with pytest.raises(SystemExit):
        load(["run.jobs=2", given], "train")
    assert "divide the GPUs twice" in capsys.readouterr().err

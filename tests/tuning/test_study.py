"""Many workers on one study: none of its trials is lost or done twice, whoever is killed."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from matplotlib import pyplot
from optuna.trial import TrialState

from src import tune
from src.base.errors import InputError
from src.pipeline.artefacts import Artefact
from src.pipeline.resolved import search_plan
from src.plots.tuning_plots import draw_search
from src.settings.load import load
from src.settings.yaml_files import ConfigError
from src.tuning import claims
from src.tuning.results import SCORE_NAMES, best_trial, finished_study, table_rows
from src.tuning.study import Study, StudyPlan, TakenOver
from src.tuning.worker import run_worker

SPACE = {
    "x": {"low": -5.0, "high": 5.0},
    "kind": {"choices": ["a", None, [1, 2]]},
    "n": {"low": 2, "high": 9, "step": 3},
}
INITIAL = {"x": 0.25, "kind": None, "n": 4}


def plan(trials, **changes):
    return StudyPlan(**{"trials": trials, "space": SPACE, "initial": INITIAL, "seed": 0, **changes})


def value(params: dict) -> float:
    return -((params["x"] - 1) ** 2) + params["n"] / 10 + (params["kind"] is None)


def folder_of_postgres() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "absent")]
    return found[-1].parent if found[-1].is_file() else None


@pytest.fixture
def postgres(tmp_path_factory) -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, which listens on a socket in a temporary folder claims."""
    binaries = folder_of_postgres()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed here")
    folder = Path(os.path.realpath(subprocess.check_output(["mktemp", "-d", "/tmp/pgXXXXXX"], text=True).strip()))
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        os.chown(folder, 65534, 65534)  # initdb refuses root

    def run(*command):
        subprocess.run([*user, str(binaries / command[0]), *command[1:]], cwd=folder, check=True, capture_output=True)

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "tuner", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql+psycopg://tuner@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def worker(url: str, place: int) -> None:
    claims._machine = lambda: f"machine {place}"  # else the dead would be known by their process at once

    def objective(claim):
        for epoch in (1, 2, 3):
            time.sleep(0.15)
            claim.report(epoch, value(claim.params))
        return [value(claim.params)]

    run_worker(Study(url, "shared", plan(14), heartbeat=1, grace_period=3), objective, "worker")


@pytest.mark.slow
@pytest.mark.postgres
def test_four_workers_on_postgresql_two_of_them_killed_finish_exactly_what_was_asked(postgres):
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=worker, args=(postgres, place)) for place in range(4)]
    for process in workers:
        process.start()
    study = Study(postgres, "shared", plan(14))

    def held_by(process):
        return [t.number for t in study.trials() if t.state == TrialState.RUNNING
                and t.user_attrs.get("worker", {}).get("pid") == process.pid and t.intermediate_values]  # fmt: skip

    orphans = []
    for process in workers[:2]:
        while not (held := held_by(process)):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        orphans += held
    for process in workers:
        process.join(timeout=300)
    assert [process.exitcode for process in workers] == [-signal.SIGKILL] * 2 + [0, 0]
    trials = study.storage.get_all_trials(study.id)
    assert [trial.number for trial in trials] == list(range(14))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert [trial.value for trial in trials] == [value(trial.params) for trial in trials]
    assert len({trial.params["x"] for trial in trials}) == 14, "workers' seeds differ"
    for number in orphans:
        assert trials[number].user_attrs["worker"]["pid"] in {process.pid for process in workers[2:]}


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_a_study_lies_in_its_folder_whatever_that_is_called(tmp_path):
    folder = tmp_path / "a?b=1" / "c%20d{e}" / "tune"
    artefact, searched = Artefact("tune", folder, folder / "done.json", {}, {}), search_plan(load([], "tune")[0])
    study = tune.open_study(load([], "tune")[0], searched, artefact, fresh=False)
    assert not study.trials() and (folder / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a?b=1"]


@pytest.mark.slow
def test_workers_of_one_machine_share_a_file(url):
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=worker, args=(url, 0)) for _ in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=300)
    trials = Study(url, "shared", plan(14)).trials()
    assert [process.exitcode for process in workers] == [0, 0, 0]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 14


def test_a_worker_that_was_taken_for_dead_cannot_finish_what_another_has(url):
    slow, quick = Study(url, "s", plan(1)), Study(url, "s", plan(1))
    slow.worker = {**slow.worker, "began": "long ago"}  # as if that process were gone
    first = slow.claim()
    second = quick.claim()
    assert (first.number, first.params) == (second.number, second.params) == (0, INITIAL | {"n": 5})
    for act in (lambda: first.report(1, 0.5), lambda: slow.finish(0, TrialState.COMPLETE, [9.0])):
        with pytest.raises(TakenOver):
            act()
    assert quick.claim() is None, "nothing is left to claim"
    quick.finish(0, TrialState.COMPLETE, [1.0])
    assert [trial.value for trial in quick.trials()] == [1.0]


@pytest.mark.parametrize("kind", ["median", "halving", "hyperband"])
def test_pruning_is_what_optuna_itself_would_do(kind, url):
    """Asked twice after each epoch, as when a worker died on the answer, against Optuna's own loop."""
    pruners = optuna.pruners
    make = {
        "median": pruners.MedianPruner,
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, max_resource=8),
    }[kind]

    def score(x, epoch):
        return -((x - 1) ** 2) * (1 + 1 / epoch)

    def killed(claim):
        for epoch in range(1, 9):
            claim.report(epoch, score(claim.params["x"], epoch))
            study._should_prune(claim.number, epoch)  # what a worker that takes over would ask
        return [score(claim.params["x"], 8)]

    study = Study(url, "s", plan(12, pruner=make, space={"x": SPACE["x"]}))
    run_worker(study, killed, kind)

    def objective(trial):
        x = trial.suggest_float("x", -5, 5)
        for epoch in range(1, 9):
            trial.report(score(x, epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return score(x, 8)

    own = optuna.create_study(study_name="s", direction="maximize", pruner=make())
    for trial in study.trials():
        own.enqueue_trial({"x": trial.params["x"]})
    own.optimize(objective, n_trials=12)
    expected = [(trial.state, trial.last_step) for trial in own.trials]
    assert [(trial.state, trial.last_step) for trial in study.trials()] == expected
    assert {TrialState.PRUNED, TrialState.COMPLETE} == {trial.state for trial in own.trials}


def test_a_trial_fails_for_its_own_reasons_and_the_study_goes_on(url):
    errors = [InputError("no photos"), MemoryError(), RuntimeError("CUDA out of memory. Tried"), ConfigError("odd")]

    def objective(claim):
        if claim.number < len(errors):
            raise errors[claim.number]
        return [float("nan")] if claim.number == len(errors) else [1.0]

    study = Study(url, "s", plan(6))
    run_worker(study, objective, "")
    reasons = [row["reason"] for row in table_rows(study, "mos")]
    words = ["no photos", "memory is too small", "GPU's memory is full", "odd", "not finite", ""]
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    assert best_trial(study, "mos").number == 5
    with pytest.raises(InputError, match="none of the 5 trials has a score; the first reason: no photos"):
        best_trial(Study(url, "s", plan(5)), "mos")
    with pytest.raises(ZeroDivisionError):  # a fault of the program is no result
        run_worker(Study(url, "other", plan(2)), lambda claim: [1 / 0], "")


def test_two_scores_give_the_front_that_nobody_beats(url):
    study = Study(url, "s", plan(12, objectives=2))
    run_worker(study, lambda claim: [claim.params["x"], -((claim.params["x"] + claim.params["n"]) ** 2)], "")
    trials = study.trials()
    front = {trial.number for trial in finished_study(study, "both").best_trials}
    for trial in trials:
        better = [o for o in trials if o.values[0] >= trial.values[0] and o.values[1] >= trial.values[1]
                  and o.values != trial.values]  # fmt: skip
        assert (trial.number in front) == (not better)
    assert best_trial(study, "both").number in front


@pytest.mark.parametrize("trials", [2, 8])
@pytest.mark.parametrize("objective", ["mean", "both"])
def test_the_figures_of_a_search_say_what_they_show(trials, objective, url, tmp_path, monkeypatch):
    scores = SCORE_NAMES[objective]
    study = Study(url, "s", plan(trials, objectives=len(scores)))
    run_worker(study, lambda claim: [claim.params["x"], value(claim.params)][: len(scores)], "")
    drawn, close = [], pyplot.close
    monkeypatch.setattr(pyplot, "close", lambda: drawn.append(pyplot.gcf()))
    draw_search(finished_study(study, objective), tmp_path)
    close("all")
    names = ["history", "slices", "importance"]
    if objective == "both":
        names = ["history-mos", "slices-mos", "history-caption", "slices-caption", "importance", "pareto"]
    for name, figure in zip(names, drawn, strict=True):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        labels = {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())}
        if name.startswith(("history", "slices")):
            assert labels & set(scores) and labels & ({"Trial"} if name.startswith("history") else set(SPACE))
    assert bool(drawn[names.index("importance")].axes) == (trials > 3), "too few trials say nothing"

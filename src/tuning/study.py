"""A study that any number of workers share, each claiming one trial at a time.

The trials of a study are numbered 0, 1, … and there are never more than planned: a trial whose worker died keeps its
number and its settings, and another worker takes it over. So equal studies give equal results, whichever worker was
killed. Optuna's own retry is not used: it adds a trial with a new number and leaves the scores of the old one in place,
so that successive halving would count both and Hyperband would choose another bracket. Its MaxTrialsCallback lets
several workers finish more trials than asked for. Claiming, reporting and finishing are done by one worker at a time.
"""

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from src.base.errors import InputError
from src.tuning.claims import WorkerLock, is_running, process_identity
from src.tuning.space import draw

HEARTBEAT, GRACE_PERIOD = 10, 60
"""Seconds between two heartbeats of a worker, and after how many without one it counts as dead."""


class TakenOver(Exception):
    """Another worker has the trial, because this one sent no heartbeat for too long."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has: its number, its settings, and `report(epoch, score)`, which may prune it."""

    number: int
    params: dict[str, Any]
    report: Callable[[int, float], None]


@dataclass(frozen=True)
class StudyPlan:
    """How many trials of which search space, with which seed; a pruner is made anew for each decision.

    initial: the settings of trial 0. objectives: how many scores a trial has, one or two.
    """

    trials: int
    space: dict[str, dict]
    initial: dict[str, Any]
    seed: int
    objectives: int = 1
    pruner: Callable[[], optuna.pruners.BasePruner] | None = None


class Study:
    """The study of that name in a database. Raises InputError where the database cannot be reached or used."""

    def __init__(
        self,
        url: str,
        name: str,
        plan: StudyPlan,
        fresh: bool = False,
        heartbeat: int = HEARTBEAT,
        grace_period: int = GRACE_PERIOD,
    ):
        self.plan, self.name, self.heartbeat = plan, name, heartbeat
        self.worker = process_identity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _connection_errors(url) as address:
            self.lock = WorkerLock(address, name)
            with self.lock(), _without_warnings():  # workers that create the tables at the same time disturb each other
                sqlite = address.get_backend_name() == "sqlite"
                self.storage = optuna.storages.RDBStorage(
                    address.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
                    engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
                    heartbeat_interval=heartbeat,
                    grace_period=grace_period,
                )
                if fresh and name in {study.study_name for study in self.storage.get_all_studies()}:
                    optuna.delete_study(study_name=name, storage=self.storage)
                self.study = optuna.create_study(
                    storage=self.storage,
                    study_name=name,
                    directions=[StudyDirection.MAXIMIZE] * plan.objectives,
                    load_if_exists=True,
                )
        self.id = self.storage.get_study_id_from_name(name)

    def trials(self) -> list[FrozenTrial]:
        """The trials so far, by number."""
        trials = sorted(self.storage.get_all_trials(self.id), key=lambda trial: trial.number)
        return trials[: self.plan.trials]

    def finished(self) -> list[FrozenTrial]:
        """The trials that ended: complete, pruned, or failed for a reason of their own."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def claim(self) -> Claim | None:
        """The next trial for this worker: one whose worker died, or a new one; None where all are taken."""
        with self.lock(), _without_warnings():
            trials = self.trials()
            orphans = [trial for trial in trials if trial.state == TrialState.RUNNING and self._abandoned(trial)]
            if orphans:
                trial = optuna.Trial(self.study, orphans[0]._trial_id)
            elif len(trials) < self.plan.trials:
                trial = self.study.ask()
            else:
                return None
            params = draw(trial, self.plan.space, self.plan.seed, self.plan.initial)
            self.storage.record_heartbeat(trial._trial_id)
            self.storage.set_trial_user_attr(trial._trial_id, "worker", self.worker)
        return Claim(trial.number, params, lambda epoch, score: self._report(trial.number, epoch, score))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:  # it died while claiming: only one worker claims at a time, and this one holds the lock
            return True
        running = is_running(worker)
        if running is not None:
            return not running
        # of another machine only the heartbeats tell, by the database's clock; Optuna has no public name for this
        return trial._trial_id in self.storage._get_stale_trial_ids(self.id)

    def _claimed(self, trial_number: int) -> FrozenTrial:
        trial = self.trials()[trial_number]
        if trial.state != TrialState.RUNNING or trial.user_attrs.get("worker") != self.worker:
            raise TakenOver
        return trial

    def _report(self, trial_number: int, epoch: int, score: float) -> None:
        with self.lock():
            trial = self._claimed(trial_number)
            if epoch not in trial.intermediate_values:
                self.storage.set_trial_intermediate_value(trial._trial_id, epoch, score)
            if self._should_prune(trial_number, epoch):
                raise optuna.TrialPruned(f"pruned after epoch {epoch}")

    def _should_prune(self, trial_number: int, epoch: int) -> bool:
        """The pruner's decision, as a function of all trials' scores: made in a copy of the study, epoch by epoch.

        Pruners record in the storage how far a trial came. Were they asked there, a worker killed between that record
        and the trial's end would get another answer the next time.
        """
        if self.plan.pruner is None:
            return False
        memory = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=memory, study_name=self.name, direction="maximize")
        trials = self.trials()
        for trial in trials:
            if trial.number == trial_number:
                trial = copy.copy(trial)
                trial.intermediate_values, trial.system_attrs = {}, {}
            study.add_trial(trial)
        copied = memory.get_all_trials(study._study_id)[trial_number]._trial_id
        pruner, prune = self.plan.pruner(), False
        for step, score in sorted(trials[trial_number].intermediate_values.items()):
            if step <= epoch:
                memory.set_trial_intermediate_value(copied, step, score)
                prune = pruner.prune(study, memory.get_trial(copied))
        for key, value in memory.get_trial(copied).system_attrs.items():
            self.storage.set_trial_system_attr(trials[trial_number]._trial_id, key, value)
        return prune

    def finish(self, trial_number: int, state: TrialState, scores: list[float] | None = None, reason: str = "") -> None:
        """End a trial. Raises TakenOver where another worker has it by now."""
        with self.lock():
            trial = self._claimed(trial_number)
            if reason:
                self.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            self.study.tell(trial_number, scores, state)

    @contextlib.contextmanager
    def heartbeats(self, trial_number: int) -> Iterator[None]:
        """Send heartbeats for the trial while the block runs."""
        ended, trial_id = threading.Event(), self.trials()[trial_number]._trial_id

        def beat() -> None:
            while not ended.wait(self.heartbeat):
                with contextlib.suppress(Exception):  # the database may be away for a moment
                    self.storage.record_heartbeat(trial_id)
            self.storage.remove_session()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def _connection_errors(url: str) -> Iterator[sqlalchemy.engine.URL]:
    """Turn errors of opening a database into one line, without the password."""
    try:
        address = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise InputError("tune.storage: expected postgresql://USER@HOST/DATABASE or sqlite:///FILE") from None
    shown = address.render_as_string(hide_password=True)
    try:
        if address.get_backend_name() == "sqlite":
            if not address.database:
                raise InputError(f"tune.storage={shown}: give a file, sqlite:///FILE")
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        yield address
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        message = " ".join(str(getattr(error, "orig", None) or error).split())
        raise InputError(f"tune.storage={shown} cannot be used: {message[:200]}; start it, or give another") from None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide Optuna's warnings that heartbeats are experimental and that ask() sends none: `heartbeats` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield

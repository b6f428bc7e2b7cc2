"""A study that any number of workers share, each claiming one trial at a time.

The trials of a study are numbered 0, 1, … and there are never more than asked for: a trial whose worker died keeps its
number and its settings, and another worker takes it over. So equal studies are equal whoever was killed, and Optuna's
own retry, which adds a trial with a new number and leaves the old one's scores in place, is not used: successive
halving would count both, Hyperband would choose another bracket. Claiming, reporting and finishing happen one worker
at a time.
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
from optuna.trial import FrozenTrial, TrialState

from src.base.errors import InputError
from src.tuning.claims import WorkerLock, identity, lives
from src.tuning.space import draw

BEAT, SILENCE = 10, 60
"""Seconds between two signs of life of a worker, and after how many without one it counts as dead."""


class TakenOver(Exception):
    """Another worker has the trial, because this one gave no sign of life for too long."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has: its number, the settings to try, and where to report the score of each epoch."""

    number: int
    params: dict[str, Any]
    report: Callable[[int, float], None]


@dataclass(frozen=True)
class Plan:
    """What is asked of a study: so many trials of a space, for one score or two, with a pruner made anew each time.

    present: the settings as they are, which trial 0 tries.
    """

    trials: int
    space: dict[str, dict]
    present: dict[str, Any]
    seed: int
    scores: int = 1
    pruner: Callable[[], optuna.pruners.BasePruner] | None = None


class Study:
    """The study of that name in a database. Raises InputError where the database cannot be reached or used."""

    def __init__(self, url: str, name: str, plan: Plan, fresh: bool = False, beat: int = BEAT, silence: int = SILENCE):
        self.plan, self.name, self.beat = plan, name, beat
        self.me = identity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _reaching(url) as address:
            self.alone = WorkerLock(address, name)
            with self.alone(), _without_warnings():  # workers that make the tables at once would disturb each other
                self.storage = _open(address, beat, silence)
                if fresh and name in {study.study_name for study in self.storage.get_all_studies()}:
                    optuna.delete_study(study_name=name, storage=self.storage)
                directions = ["maximize"] * plan.scores
                self.study = optuna.create_study(
                    storage=self.storage, study_name=name, directions=directions, load_if_exists=True
                )
        self.id = self.storage.get_study_id_from_name(name)

    def trials(self) -> list[FrozenTrial]:
        """The trials so far, by number."""
        found = sorted(self.storage.get_all_trials(self.id), key=lambda trial: trial.number)
        return found[: self.plan.trials]

    def finished(self) -> list[FrozenTrial]:
        """Those that ended: with a score, pruned, or failed for a reason of their own."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def claim(self) -> Claim | None:
        """The next trial for this worker: one whose worker died, or a new one; None where all are taken."""
        with self.alone(), _without_warnings():
            trials = self.trials()
            orphans = [trial for trial in trials if trial.state == TrialState.RUNNING and self._abandoned(trial)]
            if orphans:
                trial = optuna.Trial(self.study, orphans[0]._trial_id)
            elif len(trials) < self.plan.trials:
                trial = self.study.ask()
            else:
                return None
            params = draw(trial, self.plan.space, self.plan.seed, self.plan.present)
            self.storage.record_heartbeat(trial._trial_id)
            self.storage.set_trial_user_attr(trial._trial_id, "worker", self.me)
        return Claim(trial.number, params, lambda epoch, score: self._report(trial.number, epoch, score))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:  # it died while it claimed: claiming is done by one at a time, and not by that one now
            return True
        alive = lives(worker)
        # the one thing that Optuna has no public name for; the clock is the database's
        return trial._trial_id in self.storage._get_stale_trial_ids(self.id) if alive is None else not alive

    def _mine(self, number: int) -> FrozenTrial:
        trial = self.trials()[number]
        if trial.state != TrialState.RUNNING or trial.user_attrs.get("worker") != self.me:
            raise TakenOver
        return trial

    def _report(self, number: int, epoch: int, score: float) -> None:
        with self.alone():
            trial = self._mine(number)
            if epoch not in trial.intermediate_values:
                self.storage.set_trial_intermediate_value(trial._trial_id, epoch, score)
            if self.plan.pruner and self._falls_behind(number, epoch):
                raise optuna.TrialPruned(f"pruned after epoch {epoch}")

    def _falls_behind(self, number: int, epoch: int) -> bool:
        """The pruner's word, as a function of all trials' scores: asked in a copy of the study, epoch by epoch.

        Pruners note in the storage how far a trial came. Asked there, one killed between its note and the trial's end
        would be answered otherwise the next time.
        """
        memory = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=memory, study_name=self.name, direction="maximize")
        trials = self.trials()
        for trial in trials:
            if trial.number == number:
                trial = copy.copy(trial)
                trial.intermediate_values, trial.system_attrs = {}, {}
            study.add_trial(trial)
        own, pruner, behind = memory.get_all_trials(study._study_id)[number]._trial_id, self.plan.pruner(), False
        for step, score in sorted(trials[number].intermediate_values.items()):
            if step <= epoch:
                memory.set_trial_intermediate_value(own, step, score)
                behind = pruner.prune(study, memory.get_trial(own))
        for key, noted in memory.get_trial(own).system_attrs.items():
            self.storage.set_trial_system_attr(trials[number]._trial_id, key, noted)
        return behind

    def finish(self, number: int, state: TrialState, scores: list[float] | None = None, reason: str = "") -> None:
        """End a trial. Raises TakenOver where another worker has it by now."""
        with self.alone():
            trial = self._mine(number)
            if reason:
                self.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            self.study.tell(number, scores, state)

    @contextlib.contextmanager
    def alive(self, number: int) -> Iterator[None]:
        """Give signs of life for the trial while the block runs."""
        ended, trial_id = threading.Event(), self.trials()[number]._trial_id

        def beat() -> None:
            while not ended.wait(self.beat):
                with contextlib.suppress(Exception):  # a database away for a moment is tried again
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
def _reaching(url: str) -> Iterator[sqlalchemy.engine.URL]:
    """Errors of opening a database become one line, without the password."""
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
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        raise InputError(f"tune.storage={shown} cannot be used: {said[:200]}; start it, or give another") from None


def _open(address: sqlalchemy.engine.URL, beat: int, silence: int) -> optuna.storages.RDBStorage:
    sqlite = address.get_backend_name() == "sqlite"
    arguments = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(
        address.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
        engine_kwargs=arguments,
        heartbeat_interval=beat,
        grace_period=silence,
    )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Optuna warns that heartbeats are experimental, and that ask() does not send them; `alive` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield

"""Training one fold from start to end, resumed where it was cut off. The commands train and tune call it."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch

from src.base.errors import InputError, Stopped
from src.base.stopping import time_to_finish
from src.data.augment import Augmenter
from src.data.dataset import BatchDataset, BatchSlice, epoch_batches, rank_slice
from src.data.loading import load_batches
from src.models.lora import learned_state
from src.pipeline.runs import best_checkpoint, fold_folder, last_checkpoint
from src.settings.keys import changing
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.feature_cache import encoder_weights
from src.training.fold_data import FoldData
from src.training.fold_task import build_task
from src.training.interrupt import Interrupt
from src.training.metrics_log import append_timing, epoch_line, tensorboard, write_metrics, write_parameters
from src.training.self_critical import SelfCritical
from src.training.validation import Validator

_SAVE_AFTER = 20.0  # seconds since the last checkpoint after which the end of an epoch writes one


@dataclass
class TrainState:
    """How far a fold has come: epochs and steps done, a row of metrics per epoch, the best score of each task so far.

    bad_epochs: how many in a row improved no score. started_at: the caption score of the run that training started
    from.
    """

    epoch: int = 0
    step: int = 0
    bad_epochs: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    started_at: float | None = None


class Fit:
    """Trains a fold in `folder`."""

    def __init__(self, settings: Settings, data: FoldData, fold: int, folder: Path, ranks: Ranks):
        self.settings, self.data, self.fold, self.folder, self.ranks = settings, data, fold, folder, ranks
        self.rows = data.labelled(settings.task)
        self.steps = -(-len(self.rows) // settings.train.batch_size)  # of an epoch
        self_critical = None
        if settings.self_critical.from_epoch is not None:
            self_critical = SelfCritical(settings, data.labels, data.train_rows, data.vocabulary)
        task = build_task(settings, data, fold)
        if ranks.main and task.model.encoder.warning:
            print(f"fold {fold}: {task.model.encoder.warning}", flush=True)
        self.engine = Engine(task, settings, ranks, self_critical)
        self.validate = Validator(self.engine.ema.module, settings, data, ranks)
        self.train_state = TrainState()
        self._best: dict[str, dict[str, Any]] = {}  # by task, what best-*.pt is to hold
        self._saved = time.monotonic()
        last = last_checkpoint(folder)
        if ranks.shared_paths(lambda: [last] if last.is_file() else []):
            self._resume(last)
        elif settings.train.start_from:
            self._start_from(fold_folder(Path(settings.run.root, settings.train.start_from), fold))
        if ranks.main:
            write_parameters(folder / "parameters.json", task.model)

    def run(self, report: Callable[[dict], None] = lambda row: None) -> TrainState:
        """Train to the end. `report(row)` is called after each epoch and may end the training by raising.

        Raises Stopped where the process was asked to stop; the same call then goes on.
        """
        train_state = self.train_state
        writer = tensorboard(self.folder / "tensorboard", train_state.epoch) if self.ranks.main else None
        with Interrupt() as interrupt, contextlib.closing(writer) if writer else contextlib.nullcontext():
            batches = self._until_stopped(self._batches(), interrupt)
            while train_state.epoch < self.settings.train.epochs and not self._patience_exhausted():
                began = time.perf_counter()
                losses = self.engine.train_one_epoch(
                    batches, train_state.epoch, train_state.step, self.steps, interrupt, self._after_step
                )
                row = {"epoch": train_state.epoch + 1, **losses, **self._validate_or_stop(interrupt)}
                self._finish_epoch(row, writer, time.perf_counter() - began)
                if signum := max(self.ranks.all_gather(interrupt.signal)):
                    self._save()
                    self._stop(signum)
                report(row)
        self._warn_if_worse()
        return train_state

    def _validate_or_stop(self, interrupt: Interrupt) -> dict[str, float]:
        """The validation scores. A request to stop is obeyed at once; the epoch as trained is kept, to be validated."""
        state = self._state()  # takes all processes, of which each stops by itself below
        signum = max(self.ranks.all_gather(interrupt.signal))
        try:
            if signum:
                raise Stopped("", signum)
            with interrupt.at_once():
                return self.validate()
        except Stopped as stop:
            self._save(state)
            self._stop(stop.signal)

    def _until_stopped(self, batches: Iterator[dict[str, Any]], interrupt: Interrupt) -> Iterator[dict[str, Any]]:
        """The batches. A request to stop is obeyed at once while one is waited for; several processes stop together."""
        at_once = interrupt.at_once if self.ranks.world_size == 1 else contextlib.nullcontext
        while True:
            try:
                with at_once():
                    batch = next(batches, None)
            except Stopped as stop:
                self._save_step()
                self._stop(stop.signal)
            if batch is None:
                return
            yield batch

    def _batches(self) -> Iterator[dict[str, Any]]:
        """This process's batches of all steps that are left."""
        settings, uniforms = self.settings, self.engine.task.uniforms_per_token
        augmenter = Augmenter(settings.augment, settings.view.size)
        captions = settings.train.captions_per_photo
        dataset = BatchDataset(self.data.targets, augmenter, settings.run.seed, captions, uniforms)
        return load_batches(dataset, self._slices(), settings.run.workers, self.ranks.device.type == "cuda")

    def _slices(self) -> Iterator[BatchSlice]:
        train = self.settings.train
        for epoch in range(self.train_state.epoch, train.epochs):
            first = self.train_state.step if epoch == self.train_state.epoch else 0
            for rows in islice(epoch_batches(self.rows, train.batch_size, self.settings.run.seed, epoch), first, None):
                yield rank_slice(rows, self.ranks.rank, self.ranks.world_size, epoch)

    def _patience_exhausted(self) -> bool:
        """Whether no score improved for train.patience epochs; self-critical training is given as many of its own."""
        rewarded = self.train_state.epoch - (self.settings.self_critical.from_epoch or 0)
        return 0 < self.settings.train.patience <= min(self.train_state.bad_epochs, rewarded)

    def _after_step(self, done: int) -> None:
        self.train_state.step = done
        if done == self.steps:
            return  # the epoch's end saves by itself, and looks for signals
        signum = self.engine.stop_signal()
        if signum or self.engine.steps % self.settings.train.checkpoint_steps == 0:
            self._save_step()
        if signum:
            self._stop(signum)

    def _stop(self, signum: int) -> NoReturn:
        epoch, epochs = self.train_state.epoch + 1, self.settings.train.epochs
        where = f"epoch {epoch} of {epochs}, step {self.train_state.step} of {self.steps}"
        if epoch > epochs:
            where = "its last epoch"
        raise Stopped(f"fold {self.fold}, {where}, is saved; the same command, without --fresh, goes on", signum)

    def _finish_epoch(self, row: dict[str, float], writer: Any, seconds: float) -> None:
        train_state, optim = self.train_state, self.settings.optim
        improved, scored = self._keep_best(row), any(name.endswith("_score") for name in row)
        train_state.bad_epochs = 0 if improved or not scored else train_state.bad_epochs + 1
        if optim.schedule == "plateau" and train_state.bad_epochs and train_state.bad_epochs % optim.step_epochs == 0:
            self.engine.drops += 1
        train_state.rows.append(row)
        train_state.epoch, train_state.step = train_state.epoch + 1, 0
        if self.ranks.main:
            write_metrics(self.folder / "metrics.csv", train_state.rows)
            append_timing(self.folder / "timing.csv", train_state.epoch, seconds, self.engine.pace)
            for name in row.keys() - {"epoch"}:
                writer.add_scalar(name, row[name], train_state.epoch)
            writer.flush()
            print(epoch_line(row, self.settings.train.epochs, seconds), flush=True)
        ended = train_state.epoch >= self.settings.train.epochs or self._patience_exhausted()
        due = ended or time.monotonic() - self._saved > _SAVE_AFTER
        if any(self.ranks.all_gather(int(due))):
            self._save()

    def _keep_best(self, row: dict[str, float]) -> bool:
        """Keep this epoch's weights for best-mos.pt and best-caption.pt where its score is the best, or is unknown.

        Returns whether a score improved.
        """
        improved, state = False, None
        for name in self.settings.tasks:
            score = row.get(f"val_{name}_score")
            if score is None or score > self.train_state.best.get(name, -1.0):
                self.train_state.best[name] = -1.0 if score is None else score
                improved = improved or score is not None
                if self.ranks.main:
                    self._best[name] = state = state or self._export_state(row)
        return improved

    @cached_property
    def _cached_encoder_weights(self) -> dict[str, torch.Tensor]:
        """Those of the encoder whose features are cached; no part of the network while it is trained."""
        return encoder_weights(self.data.labels.features) if self.data.labels.features else {}

    def _export_state(self, row: dict[str, float]) -> dict[str, Any]:
        """The averaged weights with all that is needed to use them apart from the run."""
        weights = {
            name: value.to("cpu", copy=True) for name, value in learned_state(self.engine.ema.module.model).items()
        }
        weights |= {f"encoder.{name}": value for name, value in self._cached_encoder_weights.items()}
        return {
            "model": weights,
            "settings": changing(self.settings),
            **self.data.vocabulary.description(),
            "scale": dataclasses.asdict(self.engine.task.scale),
            "fold": self.fold,
            "scores": dict(row),
        }

    def _state(self) -> dict[str, Any]:
        return {"engine": self.engine.state(), "train_state": dataclasses.asdict(self.train_state)}

    def _save_step(self) -> None:
        if self.train_state.step:
            self.engine.means(self.train_state.epoch, self.train_state.step - 1)  # not where a loss is not finite
        self._save()

    def _save(self, state: dict[str, Any] | None = None) -> None:
        """Write the best weights, and then last.pt, which says that they are there. state: not the present one."""
        state = state or self._state()
        if self.ranks.main:
            with time_to_finish():
                for name, best in self._best.items():
                    checkpoint.save(best_checkpoint(self.folder, name), best)
                checkpoint.save(last_checkpoint(self.folder), state)
        self._best.clear()
        self._saved = time.monotonic()

    def _resume(self, last: Path) -> None:
        state = checkpoint.load(last)
        self.engine.load_state(state["engine"])
        self.train_state = TrainState(**state["train_state"])
        places = self.ranks.all_gather((self.train_state.epoch, self.train_state.step))
        if len(set(places)) > 1:
            read = ", ".join(f"epoch {epoch + 1} step {step}" for epoch, step in places)
            raise InputError(
                f"{last} is another checkpoint for each process ({read}): all machines must share the storage of "
                "run.root; where they do, start again once all of them see its last file"
            )
        if self.ranks.main and self.train_state.epoch < self.settings.train.epochs:
            print(f"fold {self.fold}: going on from epoch {self.train_state.epoch + 1}, step {self.train_state.step}")

    def _start_from(self, folder: Path) -> None:
        """Take the weights of another run's best captioner (or MOS network, where that is the task)."""
        path = best_checkpoint(folder, self.settings.tasks[-1])
        start = checkpoint.load(path)
        if self.settings.task != "mos" and start["words"] != list(self.data.vocabulary.words):
            raise InputError(f"{path} has another vocabulary; train.start_from needs a run on the same captions")
        self.train_state.started_at = start["scores"].get("val_caption_score")
        for module in (self.engine.task.model, self.engine.ema.module.model):
            state = module.state_dict()
            of_photos = (".low", ".high", ".standardiser.mean", ".standardiser.std")
            statistics = {name: value for name, value in state.items() if name.endswith(of_photos)}
            checkpoint.load_into(module, {**start["model"], **statistics}, path)

    def _warn_if_worse(self) -> None:
        """Print a warning where self-critical training ended below the caption score that it began with."""
        first, rows = self.settings.self_critical.from_epoch, self.train_state.rows
        if not self.ranks.main or first is None or len(rows) <= first:
            return
        began = rows[first - 1].get("val_caption_score") if first else self.train_state.started_at
        ended = rows[-1].get("val_caption_score")
        if began is not None and ended is not None and ended < began:
            print(
                f"fold {self.fold}: self-critical training ended at a validation caption score of {ended:.4f}, below "
                f"the {began:.4f} that it began with; best-caption.pt holds the best epoch",
                flush=True,
            )

"""Training one fold from start to end, resumed where it was cut off. The stages train and tune call it."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from src.base.errors import InputError, Stopped
from src.base.randomness import fold_in, seed_torch
from src.data.augment import Augmenter
from src.data.dataset import BatchDataset, BatchSlice, epoch_batches, load_batches, rank_slice
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.meteor import Meteor
from src.metrics.mos_score import mos_score
from src.metrics.word_error_rate import error_rate, word_errors
from src.models.captioner import build_captioner, with_heads
from src.pipeline.runs import fold_folder
from src.settings.load import changing
from src.settings.schema import Settings
from src.training import checkpoint
from src.training.distributed import Ranks, replicate
from src.training.engine import Engine, Interrupt, infer
from src.training.feature_cache import frozen_encoder
from src.training.fold_data import FoldData
from src.training.metrics_log import append_timing, epoch_line, tensorboard, write_metrics
from src.training.self_critical import SelfCritical
from src.training.task import Task


@dataclass
class TrainState:
    """How far a fold has come: epochs and steps done, one row of metrics per epoch, the best scores so far.

    started_at: the caption score of the run that training started from.
    """

    epoch: int = 0
    step: int = 0
    stale: int = 0
    rows: list[dict] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    started_at: float | None = None


def build_task(settings: Settings, data: FoldData, fold: int) -> Task:
    """The fold's task with weights drawn from (run.seed, fold); a frozen encoder's from run.seed alone."""
    scale, words = data.scale(settings.task), len(data.vocabulary)
    mos_range, seed = (scale.low, scale.high, scale.mean), fold_in(settings.run.seed, "weights", fold)
    if settings.encoder.frozen:
        encoder = frozen_encoder(settings, data.channel_mean, data.channel_std)
        seed_torch(seed)
        network = with_heads(encoder, settings, words, mos_range)
    else:
        seed_torch(seed)
        network = build_captioner(
            settings, len(data.channel_mean), words, mos_range, data.channel_mean, data.channel_std
        )
    return Task(network, settings.loss, scale, settings.vocabulary.maximum_words, settings.decoding.passes)


class Fit:
    """Trains a fold in `folder`. meteor: the scorer of captions, needed in the main process only."""

    def __init__(
        self, settings: Settings, data: FoldData, fold: int, folder: Path, ranks: Ranks, meteor: Meteor | None
    ):
        self.settings, self.data, self.fold, self.folder, self.ranks = settings, data, fold, folder, ranks
        self.rows = data.labelled(settings.task)
        rewarded = settings.self_critical.from_epoch is not None
        critic = SelfCritical(settings, data.labels, data.train_rows, data.vocabulary.words) if rewarded else None
        self.engine = Engine(build_task(settings, data, fold), settings, ranks, critic)
        if ranks.main and (warning := self.engine.task.model.encoder.warning):
            print(f"fold {fold}: {warning}", flush=True)
        self.validator = replicate(self.engine.ema.module, settings, ranks)
        self.train_state = TrainState()
        self.meteor = meteor
        last = folder / "last.pt"
        if ranks.places(lambda: [last] if last.is_file() else []):
            self._resume(last)
        elif settings.train.start_from:
            self._start_from(fold_folder(Path(settings.run.root, settings.train.start_from), fold))

    def run(self, report: Callable[[dict], None] = lambda row: None) -> TrainState:
        """Train to the end. `report(row)` is called after each epoch and may end the training by raising.

        Raises Stopped where the process was asked to stop; the same call then goes on.
        """
        settings, train_state = self.settings, self.train_state
        steps = -(-len(self.rows) // settings.train.batch_size)
        augmenter = Augmenter(settings.augment, settings.view.size)
        captions, uniforms = settings.train.captions_per_photo, self.engine.task.uniforms_per_token
        batches = BatchDataset(self.data.targets, augmenter, settings.run.seed, captions, uniforms)
        pin = self.ranks.device.type == "cuda"
        stream = load_batches(batches, self._shares(steps), settings.run.workers, pin)
        writer = tensorboard(self.folder / "tensorboard", train_state.epoch) if self.ranks.main else None
        with Interrupt() as interrupt, contextlib.closing(writer) if writer else contextlib.nullcontext():
            while train_state.epoch < settings.train.epochs and not self._patience_exhausted():
                began = time.perf_counter()
                trained = self.engine.train_one_epoch(
                    stream,
                    train_state.epoch,
                    train_state.step,
                    steps,
                    interrupt,
                    lambda done: self._after_step(done, steps),
                )
                row = {"epoch": train_state.epoch + 1, **trained, **self.validate()}
                self._finish_epoch(row, writer, time.perf_counter() - began)
                if asked := self.ranks.any_of(interrupt.signal):
                    self._stop(asked, steps)
                report(row)
        if self.ranks.main and (warning := self._warn_if_worse()):
            print(warning, flush=True)
        return train_state

    def validate(self) -> dict[str, float]:
        """Scores of the averaged weights on the validation photos, captions decoded freely; equal in all processes."""
        rows = self.data.validation_rows.tolist()
        # batch statistics are each process's own; what is scored and kept is the main process's
        self.ranks.copy_from_main(self.engine.ema.module.buffers())
        numbers = self.engine.task.uniforms_per_token
        found = infer(self._read, self.data.labels, rows, self.settings, self.ranks, "validation", numbers)
        return self.ranks.broadcast(self._scores(rows, found) if self.ranks.main else None)

    def _read(self, batch: dict) -> list:
        out = self.validator(batch["images"], mode="decode")
        columns = [out["mos"].float().tolist(), out["tokens"].tolist()]
        if self.engine.task.non_autoregressive:
            given = {name: batch[name] for name in ("captions", "uniforms")}
            shown = self.validator(batch["images"], mode="visible", **given)
            columns += [shown.tolist(), batch["captions"][:, 0].tolist()]
        return list(zip(*columns, strict=True))

    def _scores(self, rows: list[int], found: dict) -> dict[str, float]:
        out = {}
        mos = self.data.labels.mos[rows]
        known = ~np.isnan(mos)
        if self.settings.task != "caption" and len(np.unique(mos[known])) > 1 and known.sum() > 2:
            quality = mos_score(np.array([found[r][0] for r in rows])[known], mos[known])
            out |= {f"val_{name}": float(np.nan_to_num(value)) for name, value in quality.items() if name != "score"}
            out["val_mos_score"] = quality["score"]
        captioned = [i for i, references in enumerate(self.data.references) if references]
        if self.settings.task != "mos" and captioned:
            texts = [self.data.vocabulary.decode(found[rows[i]][1]) for i in captioned]
            caption = score_captions([list(self.data.references[i]) for i in captioned], texts, self.meteor).totals()
            out |= {f"val_{name}": caption[name] for name in ("bleu4", "meteor", "rouge_l", "cider_d", "wer")}
            if self.engine.task.non_autoregressive:
                pairs = [map(self.data.vocabulary.decode, found[rows[i]][2:]) for i in captioned]
                said, gold = zip(*pairs, strict=True)
                out["val_wer_visible"] = float(error_rate(word_errors([[text] for text in gold], list(said)).sum(0)))
            out["val_caption_score"] = caption_score(caption, self.settings.metric.weights)
        return out

    def _shares(self, steps: int) -> Iterator[BatchSlice]:
        """This process's share of every step that is left."""
        train = self.settings.train
        for epoch in range(self.train_state.epoch, train.epochs):
            first = self.train_state.step if epoch == self.train_state.epoch else 0
            plan = epoch_batches(self.rows, train.batch_size, self.settings.run.seed, epoch)
            for rows in islice(plan, first, steps):
                yield rank_slice(rows, self.ranks.rank, self.ranks.count, epoch)

    def _warn_if_worse(self) -> str:
        """A sentence where training for rewards ended below the score that it began with."""
        first, rows = self.settings.self_critical.from_epoch, self.train_state.rows
        if first is None or len(rows) <= first:
            return ""
        began = rows[first - 1].get("val_caption_score") if first else self.train_state.started_at
        ended = rows[-1].get("val_caption_score")
        if began is None or ended is None or ended >= began:
            return ""
        return (
            f"fold {self.fold}: self-critical training ended at a validation caption score of {ended:.4f}, below the "
            f"{began:.4f} that it began with; best-caption.pt holds the best epoch"
        )

    def _patience_exhausted(self) -> bool:
        rewarded = self.train_state.epoch - (self.settings.self_critical.from_epoch or 0)
        return 0 < self.settings.train.patience <= min(self.train_state.stale, rewarded)

    def _after_step(self, done: int, steps: int) -> None:
        asked = self.engine.asked_to_stop() if done < steps else 0  # an epoch's end has its own look
        if asked or (self.engine.steps % self.settings.train.checkpoint_steps == 0 and done < steps):
            self.engine.means(self.train_state.epoch, done - 1)  # no checkpoint of a loss that is not finite
            self.train_state.step = done
            self._save()
        if asked:
            self._stop(asked, steps)

    def _stop(self, asked: int, steps: int) -> NoReturn:
        epoch, step = self.train_state.epoch + 1, self.train_state.step
        where = f"epoch {epoch} of {self.settings.train.epochs}, step {step} of {steps}"
        if epoch > self.settings.train.epochs:
            where = "its last epoch"
        raise Stopped(f"fold {self.fold}, {where}, is saved; the same command, without --fresh, goes on", asked)

    def _finish_epoch(self, row: dict, writer, seconds: float) -> None:
        train_state, optim = self.train_state, self.settings.optim
        improved, scored = self._keep_best(row), any(name.endswith("_score") for name in row)
        train_state.stale = 0 if improved or not scored else train_state.stale + 1
        if optim.schedule == "plateau" and train_state.stale and train_state.stale % optim.step_epochs == 0:
            self.engine.drops += 1
        train_state.rows.append(row)
        train_state.epoch, train_state.step = train_state.epoch + 1, 0
        if self.ranks.main:
            write_metrics(self.folder / "metrics.csv", train_state.rows)
            append_timing(self.folder / "timing.csv", row["epoch"], seconds, self.engine.pace)
            for name in row.keys() - {"epoch"}:
                writer.add_scalar(name, row[name], row["epoch"])
            writer.flush()
            print(epoch_line(row, self.settings.train.epochs, seconds), flush=True)
        self._save()  # last: what comes before it is written again where the process dies in between

    def _keep_best(self, row: dict) -> bool:
        """Write best-mos.pt and best-caption.pt where this epoch is better; without labels the last epoch is."""
        improved = False
        for name, task in (("mos", "caption"), ("caption", "mos")):
            score = row.get(f"val_{name}_score")
            if self.settings.task == task:
                continue
            if score is None or score > self.train_state.best.get(name, -1.0):
                self.train_state.best[name] = -1.0 if score is None else score
                improved = improved or score is not None
                if self.ranks.main:
                    checkpoint.save(self.folder / f"best-{name}.pt", self._export_state(row))
        return improved

    def _export_state(self, row: dict) -> dict:
        """Weights with all that is needed to use them apart from the run."""
        return {
            "model": self.engine.ema.module.model.state_dict(),
            "settings": changing(self.settings),
            "words": list(self.data.vocabulary.words),
            "scale": dataclasses.asdict(self.engine.task.scale),
            "fold": self.fold,
            "scores": dict(row),
        }

    def _save(self) -> None:
        state = {"engine": self.engine.state(), "train_state": dataclasses.asdict(self.train_state)}
        if self.ranks.main:
            checkpoint.save(self.folder / "last.pt", state)

    def _resume(self, last: Path) -> None:
        state = checkpoint.load(last)
        self.engine.load_state(state["engine"])
        self.train_state = TrainState(**state["train_state"])
        if self.ranks.main and self.train_state.epoch < self.settings.train.epochs:
            print(f"fold {self.fold}: going on from epoch {self.train_state.epoch + 1}, step {self.train_state.step}")

    def _start_from(self, folder: Path) -> None:
        """Take the weights of another run's best captioner (or MOS network, where that is the task)."""
        path = folder / ("best-mos.pt" if self.settings.task == "mos" else "best-caption.pt")
        start = checkpoint.load(path)
        if self.settings.task != "mos" and start["words"] != list(self.data.vocabulary.words):
            raise InputError(f"{path} has another vocabulary; train.start_from needs a run on the same captions")
        self.train_state.started_at = start["scores"].get("val_caption_score")
        for module in (self.engine.task, self.engine.ema.module):
            own = {k: v for k, v in module.model.state_dict().items() if k in ("quality.low", "quality.high")}
            checkpoint.load_into(module.model, {**start["model"], **own}, path)

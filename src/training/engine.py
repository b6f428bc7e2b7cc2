"""The loops: one epoch of training, one pass of validation. `fit` builds what they work on."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from src.base.errors import InputError, Stopped
from src.base.randomness import fold_in, seed_torch
from src.data.dataset import BatchDataset, BatchSlice, Labels, load_batches
from src.settings.schema import Settings
from src.training.batch_loss_exchange import BatchLossExchange, LossGradients
from src.training.distributed import Ranks, replicate, synchronise, wrap
from src.training.ema import Ema
from src.training.metrics_log import progress
from src.training.optimizer import build_optimizer, clip_gradient, learning_rate, set_learning_rate
from src.training.self_critical import STATISTICS, SelfCritical
from src.training.task import Task

_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOOK_EVERY = 20  # steps between two reads of the loss, each of which waits for the GPU


class Interrupt:
    """Remembers a request to stop (Ctrl-C, SIGTERM), for the loop to obey between two steps."""

    def __init__(self) -> None:
        self.signal = 0
        self.since = 0.0

    def __enter__(self) -> "Interrupt":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _) -> None:
        # torchrun passes on what the terminal has sent already; a second request in earnest comes later
        if self.signal and time.monotonic() - self.since > 2:
            raise Stopped("the last checkpoint stands; the same command goes on from there", number)
        self.signal, self.since = number, time.monotonic()


def autocast(settings: Settings, device: torch.device):
    """The arithmetic that train.precision names. Raises InputError for fp16 without a GPU."""
    if settings.train.precision == "fp32":
        return contextlib.nullcontext()
    if settings.train.precision == "fp16" and device.type != "cuda":
        raise InputError("train.precision=fp16 needs a GPU, and there is none here; use bf16 or fp32")
    return torch.autocast(device.type, _PRECISION[settings.train.precision])


def to_device(batch: dict, device: torch.device) -> dict:
    """The batch's tensors, and those of dicts in it, on the device."""
    return _each(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _each(batch: dict, function: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    return {k: _each(v, function) if isinstance(v, dict) else function(v) for k, v in batch.items()}


class Engine:
    """A task with what trains it. `steps` counts optimiser steps, `drops` those of the plateau schedule.

    self_critical: what replaces a batch's captions by samples and their advantages, in the epochs for which
    settings.self_critical asks.
    """

    def __init__(self, task: Task, settings: Settings, ranks: Ranks, self_critical: SelfCritical | None = None):
        self.settings = settings
        self.ranks = ranks
        self.task = task.to(ranks.device)
        self.ema = Ema(self.task, settings.train.ema_decay)
        self.task = synchronise(self.task, settings, ranks)  # after the copy, which has no batches of its own
        self.optimizer = build_optimizer(self.task, settings.optim)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.train.precision == "fp16")
        self.autocast = autocast(settings, ranks.device)
        self.self_critical = self_critical
        self.sampler = replicate(self.task, settings, ranks)
        compares = settings.loss.compares and task.model.mos_head is not None
        self.batch_loss_exchange = BatchLossExchange(settings, task.scale.spread, ranks) if compares else None
        self._wrap()
        self.steps = 0
        self.drops = 0
        self.interrupt = Interrupt()
        self.asked = torch.zeros(1, device=ranks.device)
        self.sums = torch.zeros(2 * len(task.terms) + len(STATISTICS) + 1, dtype=torch.float64, device=ranks.device)

    def _wrap(self) -> None:
        compiled = torch.compile(self.task) if self.settings.train.compile else self.task
        self.forward = wrap(compiled, self.settings, self.ranks)

    def begin_epoch(self, epoch: int) -> None:
        """What changes from epoch to epoch: whether the encoder learns, and how often the captioner is fed itself."""
        chosen = self.settings.scheduled_sampling
        grown = (1 + (epoch - chosen.from_epoch) // chosen.every_epochs) * chosen.increase
        self.task.own_words = max(0.0, min(chosen.probability, grown)) if epoch >= chosen.from_epoch else 0.0
        waits = epoch < self.settings.encoder.frozen_epochs
        encoder = self.task.model.encoder
        if not self.settings.encoder.frozen and waits != encoder.frozen:
            encoder.freeze(waits)
            self._wrap()  # DDP exchanges the gradients of what was trainable when it was made

    def rewards(self, epoch: int) -> bool:
        """Whether the epoch trains for rewards."""
        return self.self_critical is not None and epoch >= self.settings.self_critical.from_epoch

    def state(self) -> dict:
        """All that a checkpoint must hold for training to go on at the same bit. Call it in every process."""
        return {
            "model": self.task.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "drops": self.drops,
            "sums": self.ranks.all_reduce(self.sums.clone()),
        }

    def load_state(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.task.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.drops = state["steps"], state["drops"]
        self.sums = state["sums"].to(self.ranks.device) * self.ranks.main  # they are those of all processes

    def train_one_epoch(
        self,
        batches: Iterator[dict],
        epoch: int,
        first: int,
        steps: int,
        interrupt: Interrupt,
        after_step: Callable[[int], None],
        shown: bool = True,
    ) -> dict[str, float]:
        """Train from step `first` of `steps` to the epoch's end; returns the epoch's mean losses.

        `after_step(steps done)` is called after each step. Raises InputError where the loss is not finite.
        """
        self.begin_epoch(epoch)
        # a reward's gradient must be that of the captioner which drew the samples: no dropout, no batch statistics;
        # otherwise advantages that are mostly negative drive the two apart
        self.forward.train(not self.rewards(epoch))
        self.interrupt = interrupt
        if first == 0:
            self.sums.zero_()
        began, photos, waited = time.perf_counter(), 0, 0.0
        size = self.settings.train.batch_size
        with progress(steps * size, first * size, f"epoch {epoch + 1}", shown and self.ranks.main) as bar:
            for step in range(first, steps):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                set_learning_rate(self.optimizer, self._learning_rate(epoch + step / steps))
                self._step(to_device(batch, self.ranks.device), self.rewards(epoch))
                photos += len(batch["row"])
                bar.update(size)
                if step % _LOOK_EVERY == 0 or step == steps - 1:
                    bar.set_postfix({k: f"{v:.3f}" for k, v in self.means(epoch, step).items()}, refresh=False)
                self._log(epoch, step)
                after_step(step + 1)
        seconds = max(time.perf_counter() - began, 1e-9)
        lr = self._learning_rate(epoch + (steps - 1) / steps)
        self.pace = {"photos_per_second": photos * self.ranks.count / seconds, "waited": waited / seconds}
        return {"lr": lr, **self.means(epoch, steps - 1)}

    def _log(self, epoch: int, step: int) -> None:
        every = self.settings.train.log_batches
        if every and (step + 1) % every == 0:
            means = self.means(epoch, step)  # in every process: it adds up over them
            if self.ranks.main:
                shown = " ".join(f"{name} {means[f'{name}_loss']:.4f}" for name in self.task.terms
                                 if f"{name}_loss" in means)  # fmt: skip
                tqdm.write(f"Epoch {epoch + 1} Batch {step + 1} Loss {shown}")

    def _learning_rate(self, epoch: float) -> float:
        if self.rewards(int(epoch)):
            return self.settings.self_critical.lr
        factor = learning_rate(self.settings.optim, epoch, self.settings.train.epochs, self.drops)
        return self.settings.optim.lr * factor

    def asked_to_stop(self) -> int:
        """The signal that some process got, by the last step's exchange; several GPUs look now and then only."""
        if self.ranks.count == 1:
            return self.interrupt.signal
        if self.ranks.device.type == "cuda" and self.steps % _LOOK_EVERY:
            return 0  # a look would wait for the GPU
        return signal.SIGTERM if self.asked.item() else 0

    def means(self, epoch: int, step: int) -> dict[str, float]:
        """The mean losses since the epoch began, over all processes. Raises InputError where one is not finite.

        With a non-autoregressive captioner also "loss", their weighed sum, which is what is descended.
        Where captions are rewarded their loss means nothing by itself: reward, baseline and the like stand for it.
        """
        sums = self.ranks.all_reduce(self.sums.clone())
        terms = len(self.task.terms)
        losses, counts, rewarded = sums.split([terms, terms, len(STATISTICS) + 1])
        if not losses.isfinite().all():
            raise InputError(
                f"the loss is not finite in epoch {epoch + 1}, by step {step + 1}: lower optim.lr, set optim.grad_clip_norm, "
                "or use train.precision=fp32"
            )
        named = zip(self.task.terms, losses.tolist(), counts.tolist(), strict=True)
        out = {f"{name}_loss": loss / count for name, loss, count in named if count}
        if self.task.non_autoregressive:
            out["loss"] = (self.task.total(losses, counts) + self.task.penalty()).item()
        if drawn := rewarded[-1].item():
            out = {name: value for name, value in out.items() if name == "mos_loss"}
            out |= {name: value / drawn for name, value in zip(STATISTICS, rewarded.tolist(), strict=False)}
        return out

    def _step(self, batch: dict, rewards: bool = False) -> None:
        parts = self.settings.train.accumulation_steps
        if rewards:
            self.ranks.copy_from_main(self.task.buffers())  # all draw with the batch statistics that a checkpoint keeps
            with self.autocast:
                batch, drawn = self.self_critical(self.sampler, batch, self.steps)
            self.sums[-len(drawn) :] += drawn
        counts = self.task.counts(batch["mos"], batch["captions"], batch.get("uniforms")).sum(0)
        asked = counts.new_tensor([float(self.interrupt.signal)])
        counts, self.asked = self.ranks.all_reduce(torch.cat([counts, asked])).split([len(counts), 1])
        slopes = self._first_pass(batch, parts) if self.batch_loss_exchange and parts > 1 else [None] * parts
        for part in range(parts):
            self._seed_dropout(part)
            waits = part < parts - 1 and self.ranks.count > 1
            with self.forward.no_sync() if waits else contextlib.nullcontext():
                self._descend(_piece(batch, part, parts), counts, parts, slopes[part])
        self.scaler.unscale_(self.optimizer)
        clip_gradient(self.task, self.settings.optim.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.task, self.steps)
        self.steps += 1

    def _seed_dropout(self, part: int) -> None:
        seed_torch(fold_in(self.settings.run.seed, "dropout", self.steps, part, self.ranks.rank))

    @torch.no_grad()
    def _first_pass(self, batch: dict, parts: int) -> list[LossGradients]:
        """What the whole batch's losses ask of each micro-batch; the network is left as it was."""
        before = [buffer.clone() for buffer in self.task.buffers()]
        pairs = []
        for part in range(parts):
            piece = _piece(batch, part, parts)
            self._seed_dropout(part)
            with self.autocast:
                pairs.append((self.forward(piece["images"], mode="score"), piece["mos"]))
        for buffer, value in zip(self.task.buffers(), before, strict=True):
            buffer.copy_(value)  # statistics of batch norms
        return self.batch_loss_exchange(pairs)

    def _descend(self, piece: dict, counts: torch.Tensor, parts: int, slopes: LossGradients | None) -> None:
        with self.autocast:
            out = self.forward(**piece)
        sums = out["losses"].sum(0)
        if self.batch_loss_exchange:
            slopes = slopes or self.batch_loss_exchange([(out["mos"], piece["mos"])])[0]
            carried = slopes.carried(out["mos"], ~piece["mos"].isnan(), counts[0])
            sums = torch.cat([sums[:1] + carried, sums[1:]])
        loss = self.task.total(sums, counts) + self.task.penalty() / (parts * self.ranks.count)
        # DDP averages gradients over processes, while the counts are already those of all: hence the factor
        self.scaler.scale(loss * self.ranks.count).backward()
        self.sums[: 2 * len(sums)] += torch.cat([sums.detach(), out["counts"].sum(0)]).double()


def _piece(batch: dict, part: int, parts: int) -> dict:
    """What the task takes of a micro-batch."""
    batch = {k: v for k, v in batch.items() if k != "row"}
    if len(batch["mos"]) > part or parts == 1:
        return _each(batch, lambda tensor: tensor.tensor_split(parts)[part])
    # fewer photos than parts: the gradient's exchange still needs this process
    first = _each(batch, lambda tensor: tensor[:1])
    return {**first, "mos": first["mos"] * torch.nan, "captions": torch.zeros_like(first["captions"])}


def infer(
    read: Callable[[dict], list],
    labels: Labels,
    rows: list[int],
    settings: Settings,
    ranks: Ranks,
    label: str,
    uniforms_per_token: int = 0,
    crop: int = 0,
) -> dict[int, Any]:
    """What `read` makes of each photo, by row, computed by all processes and complete on each, in the order of `rows`.

    read: takes a batch on the device (see Batches, for uniforms_per_token too), gives one value a photo. crop: which
    piece of the photos. No photo is read twice. The processes share whole batches, not photos, since a photo's value is
    rounded by the batch it is in: equal for any number of processes.
    """
    size = settings.train.batch_size
    slices = [BatchSlice(-1, rows[i : i + size], crop=crop) for i in range(0, len(rows), size)]
    slices = slices[ranks.rank :: ranks.count]
    found: dict[int, Any] = {}
    with torch.inference_mode(), progress(sum(len(s.rows) for s in slices), 0, label, ranks.main) as bar:
        for batch in load_batches(BatchDataset(labels, None, 0, 1, uniforms_per_token), slices, 0, False):
            batch = to_device(batch, ranks.device)
            with autocast(settings, ranks.device):
                values = read(batch)
            found.update(zip(batch["row"].tolist(), values, strict=True))
            bar.update(len(values))
    everywhere = {row: value for part in ranks.all_gather(found) for row, value in part.items()}
    return {row: everywhere[row] for row in rows}

"""The training loop: an epoch of optimiser steps on one task. `fit` builds what it works on and keeps checkpoints."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from src.base.errors import InputError
from src.base.randomness import fold_in, seed_torch
from src.models.lora import learned_state, with_published
from src.settings.schema import Settings
from src.training.batch_losses import BatchLossExchange, LossGradients
from src.training.distributed import Ranks, accept_single_values, replicate, sync_batchnorm, wrap
from src.training.infer import autocast, to_device
from src.training.interrupt import Interrupt
from src.training.metrics_log import progress
from src.training.micro_batches import MicroBatches, split_batch
from src.training.optimizer import ExponentialMovingAverage, build_optimizer, learning_rate, set_learning_rate
from src.training.self_critical import STATISTICS, SelfCritical
from src.training.task import Task

_READ_EVERY = 20  # steps between two reads of the losses, each of which waits for the GPU


class Engine:
    """A task with its optimiser. `steps` counts optimiser steps, `drops` the drops of the plateau schedule.

    self_critical: replaces a batch's captions by samples with advantages, from epoch self_critical.from_epoch on.
    `forward` is the task as DataParallel, DDP or torch.compile wrap it, `ema` its averaged copy.
    """

    def __init__(self, task: Task, settings: Settings, ranks: Ranks, self_critical: SelfCritical | None = None):
        self.settings = settings
        self.ranks = ranks
        self.ema = ExponentialMovingAverage(task, settings.train.ema_decay).to(ranks.device)
        task = task.to(ranks.device)
        self.task = accept_single_values(sync_batchnorm(task, settings, ranks))  # after the copy, never trained
        self.optimizer = build_optimizer(self.task, settings.optim)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.train.precision == "fp16")
        self.autocast = autocast(settings, ranks.device)
        self.self_critical = self_critical
        self.sampler = replicate(self.task, settings, ranks)
        compares = settings.loss.compares and task.model.mos_head is not None
        self.batch_loss_exchange = BatchLossExchange(settings, task.scale.std, ranks) if compares else None
        self.micro_batches = MicroBatches(settings, ranks)
        self._wrap()
        self.steps = 0
        self.drops = 0
        self.pace: dict[str, float] = {}
        self.interrupt = Interrupt()
        # signals, losses and counts stay on the device: reading one of them waits for it
        self.signals = torch.zeros(1, device=ranks.device)
        self.sums = torch.zeros(2 * len(task.terms) + len(STATISTICS) + 1, dtype=torch.float64, device=ranks.device)

    def _wrap(self) -> None:
        if self.ranks.world_size > 1:
            self.task.model.freeze_unread()  # DDP waits for the gradient of everything that is trainable
        compiled: nn.Module = self.task
        if self.settings.train.compile:
            torch.use_deterministic_algorithms(True, warn_only=True)  # of the compiler as well
            compiled = cast(nn.Module, torch.compile(self.task))
        # DDP exchanges gradients within the backward pass, where a process whose memory is full would leave the others
        alone = self.micro_batches.automatic and self.ranks.world_size > 1
        self.forward = compiled if alone else wrap(compiled, self.settings, self.ranks)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must hold for training to go on at the same bit. Call it in every process."""
        return {
            "model": learned_state(self.task),
            "ema": learned_state(self.ema.module),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "drops": self.drops,
            "sums": self.ranks.all_reduce(self.sums.clone()),
            **self.micro_batches.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for module, learned in ((self.task, state["model"]), (self.ema.module, state["ema"])):
            module.load_state_dict(with_published(learned, module))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.drops = state["steps"], state["drops"]
        self.micro_batches.load_state(state)
        self.sums = state["sums"].to(self.ranks.device) * self.ranks.main  # they are those of all processes

    def train_one_epoch(
        self,
        batches: Iterator[dict[str, Any]],
        epoch: int,
        first: int,
        steps: int,
        interrupt: Interrupt,
        after_step: Callable[[int], None],
        shown: bool = True,
    ) -> dict[str, float]:
        """Train from step `first` of `steps` to the epoch's end: its learning rate and mean losses by name.

        `after_step(steps done)` is called after each step. Raises InputError where the loss is not finite.
        """
        self.begin_epoch(epoch)
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
                self._step(to_device(batch, self.ranks.device), self.rewarded(epoch))
                photos += len(batch["row"])
                bar.update(size)
                if step % _READ_EVERY == 0 or step == steps - 1:
                    bar.set_postfix({k: f"{v:.3f}" for k, v in self.means(epoch, step).items()}, refresh=False)
                self._log(epoch, step)
                after_step(step + 1)
        seconds = max(time.perf_counter() - began, 1e-9)
        self.pace = {"photos_per_second": photos * self.ranks.world_size / seconds, "waited": waited / seconds}
        return {"lr": self._learning_rate(epoch + (steps - 1) / steps), **self.means(epoch, steps - 1)}

    def begin_epoch(self, epoch: int) -> None:
        """Set what changes from epoch to epoch: scheduled sampling, whether the encoder learns, dropout."""
        sampling = self.settings.scheduled_sampling
        probability = (1 + (epoch - sampling.from_epoch) // sampling.every_epochs) * sampling.increase
        begun = epoch >= sampling.from_epoch
        self.task.sampling_probability = max(0.0, min(sampling.probability, probability)) if begun else 0.0
        freeze = epoch < self.settings.encoder.frozen_epochs
        encoder = self.task.model.encoder
        if not self.settings.encoder.frozen and freeze != encoder.frozen:
            encoder.freeze(freeze)
            self._wrap()  # DDP exchanges the gradients of what was trainable when it was made
        # a reward's gradient must be that of the captioner which drew the samples: no dropout, no batch statistics;
        # otherwise advantages that are mostly negative drive the two apart
        for wrapper in (self.forward, self.sampler):  # each has a mode of its own, which SelfCritical restores
            wrapper.train(not self.rewarded(epoch))

    def rewarded(self, epoch: int) -> bool:
        """Whether the epoch is one of self-critical training."""
        first = self.settings.self_critical.from_epoch
        return self.self_critical is not None and first is not None and epoch >= first

    def _learning_rate(self, epoch: float) -> float:
        if self.rewarded(int(epoch)):
            return self.settings.self_critical.lr
        factor = learning_rate(self.settings.optim, epoch, self.settings.train.epochs, self.drops)
        return self.settings.optim.lr * factor

    def _log(self, epoch: int, step: int) -> None:
        every = self.settings.train.log_batches
        if every and (step + 1) % every == 0:
            means = self.means(epoch, step)  # in every process: it adds up over them
            losses = [f"{t} {means[f'{t}_loss']:.4f}" for t in self.task.terms if f"{t}_loss" in means]
            if self.ranks.main:
                tqdm.write(f"Epoch {epoch + 1} Batch {step + 1} Loss {' '.join(losses)}")

    def stop_signal(self) -> int:
        """The signal that a process had got before the last step, or 0. Several GPUs look for it now and then only."""
        if self.ranks.world_size == 1:
            return self.interrupt.signal
        if self.ranks.device.type == "cuda" and self.steps % _READ_EVERY:
            return 0  # reading it would wait for the GPU
        return signal.SIGTERM if self.signals.item() else 0

    def means(self, epoch: int, step: int) -> dict[str, float]:
        """The mean losses since the epoch began, over all processes. Raises InputError where one is not finite.

        With a non-autoregressive captioner also "loss", their weighted sum, which is minimised. In self-critical
        training the caption loss says nothing by itself: the means of STATISTICS stand in its place.
        """
        sums = self.ranks.all_reduce(self.sums.clone())
        terms = len(self.task.terms)
        losses, counts, statistics = sums.split([terms, terms, len(STATISTICS) + 1])
        if not losses.isfinite().all():
            raise InputError(
                f"the loss is not finite in epoch {epoch + 1}, by step {step + 1}: lower optim.lr, "
                "set optim.grad_clip_norm, or use train.precision=fp32"
            )
        named = zip(self.task.terms, losses.tolist(), counts.tolist(), strict=True)
        means = {f"{name}_loss": loss / count for name, loss, count in named if count}
        if self.task.non_autoregressive:
            means["loss"] = (self.task.total(losses, counts) + self.task.penalty()).item()
        if samples := statistics[-1].item():
            means = {name: value for name, value in means.items() if name == "mos_loss"}
            means |= {name: total / samples for name, total in zip(STATISTICS, statistics.tolist(), strict=False)}
        return means

    def _step(self, batch: dict[str, Any], rewarded: bool = False) -> None:
        """One optimiser step on this process's part of a batch, in micro-batches."""
        if rewarded:
            batch = self._sample_captions(batch)
        counts = self._global_counts(batch)
        self.micro_batches.run(lambda: self._backward(batch, counts), self.task, self.optimizer, self.sums)
        self.scaler.unscale_(self.optimizer)
        if self.settings.optim.grad_clip_norm:
            nn.utils.clip_grad_norm_(self.task.parameters(), self.settings.optim.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.task, self.steps)
        self.steps += 1

    def _backward(self, batch: dict[str, Any], counts: torch.Tensor) -> None:
        """The gradients of a step. counts: see `_global_counts`."""
        micro_batches = split_batch(batch, self.micro_batches.count)
        gradients = self._batch_loss_gradients(micro_batches)
        for index, micro_batch in enumerate(micro_batches):
            self._seed_dropout(index)
            with self._gradient_exchange(last=index == len(micro_batches) - 1):
                output = self.micro_batches.before_exchange(
                    gradients[index] is None and self.batch_loss_exchange is not None, self._forward, micro_batch
                )
                loss = self._loss(output, micro_batch["mos"], counts, gradients[index])
                checkpointing = self.settings.train.gradient_checkpointing
                with self._buffers_kept() if checkpointing else contextlib.nullcontext():  # what is computed again
                    self.scaler.scale(loss).backward()

    def _forward(self, micro_batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        with self.autocast:
            return self.forward(**micro_batch)

    def _sample_captions(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with sampled captions and their advantages."""
        assert self.self_critical is not None
        self.ranks.broadcast_tensors(self.task.buffers())  # all draw with the batch statistics that a checkpoint keeps
        with self.autocast:
            batch, statistics = self.self_critical(self.sampler, batch, self.steps)
        self.sums[-len(statistics) :] += statistics
        return batch

    def _global_counts(self, batch: dict[str, Any]) -> torch.Tensor:
        """What the summed losses are divided by, over all processes [L]; signals to stop travel along."""
        counts = self.task.counts(batch["mos"], batch["captions"], batch.get("uniforms")).sum(0)
        signals = counts.new_full((1,), float(self.interrupt.signal))  # new_tensor would wait for the GPU
        counts, self.signals = self.ranks.all_reduce(torch.cat([counts, signals])).split([len(counts), 1])
        return counts

    @torch.no_grad()
    def _batch_loss_gradients(self, micro_batches: list[dict[str, Any]]) -> list[LossGradients | None]:
        """For each micro-batch the gradients of the losses that compare the photos of the whole batch.

        They need all predictions, hence a first pass without gradient, after which the network is as it was. Of one
        micro-batch the predictions are at hand only later (None here).
        """
        if self.batch_loss_exchange is None or len(micro_batches) == 1:
            return [None] * len(micro_batches)
        with self._buffers_kept():
            predictions = self.micro_batches.before_exchange(True, self._predictions, micro_batches)
        return [*self.batch_loss_exchange(predictions)]

    @contextlib.contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        """What BatchNorm learns of the photos in the meantime is forgotten."""
        before = [buffer.clone() for buffer in self.task.buffers()]
        yield
        with torch.no_grad():
            for buffer, value in zip(self.task.buffers(), before, strict=True):
                buffer.copy_(value)

    def _predictions(self, micro_batches: list[dict[str, Any]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Predictions and labels of each micro-batch, with the dropout that its backward pass will have."""
        predictions = []
        for index, micro_batch in enumerate(micro_batches):
            self._seed_dropout(index)
            with self.autocast:
                predictions.append((self.forward(micro_batch["images"], mode="score"), micro_batch["mos"]))
        return predictions

    def _seed_dropout(self, micro_batch: int) -> None:
        seed_torch(fold_in(self.settings.run.seed, "dropout", self.steps, micro_batch, self.ranks.rank))

    def _gradient_exchange(self, last: bool) -> contextlib.AbstractContextManager:
        """DDP averages gradients over processes once a step: in the backward pass of the last micro-batch."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return contextlib.nullcontext()

    def _loss(
        self, output: dict[str, torch.Tensor], mos: torch.Tensor, counts: torch.Tensor, gradients: LossGradients | None
    ) -> torch.Tensor:
        """A micro-batch's part of the loss of the whole batch, over all processes."""
        sums = output["losses"].sum(0)
        if self.batch_loss_exchange is not None:
            gradients = gradients or self.batch_loss_exchange([(output["mos"], mos)])[0]
            surrogate = gradients.surrogate(output["mos"], ~mos.isnan(), counts[0])
            sums = torch.cat([sums[:1] + surrogate, sums[1:]])
        self.sums[: 2 * len(sums)] += torch.cat([sums.detach(), output["counts"].sum(0)]).double()
        shares = self.micro_batches.count * self.ranks.world_size
        loss = self.task.total(sums, counts) + self.task.penalty() / shares
        return loss * self.ranks.world_size  # DDP averages gradients, while `counts` are those of all processes

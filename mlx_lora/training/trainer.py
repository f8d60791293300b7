"""Trainer: the training loop that every backend shares."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from ..backends import Backend, StepResult
from ..config import TrainingConfig
from ..data.collate import Batch, in_order
from ..data.mixture import Mix
from ..data.parts import SMALL, PassCost, step_parts
from ..data.sampler import Step, balanced_plan, epoch_plan, prefix_groups, steps_per_epoch
from ..data.tokenize import EncodedExample
from ..errors import UserError
from ..runs.events import Checkpoint, Evaluation, Listener, Progress, TrainingResult, TrainingWarning
from .checkpoints import Checkpoints, TrainerState
from .diagnostics import Monitor, is_finite
from .schedule import learning_rate


@dataclass
class TrainingLimits:
    """Early termination: a deadline (``time.time()``), or a stop request, polled after each step."""

    deadline: float | None = None
    interrupted: Callable[[], bool] = lambda: False


def epoch_steps(config: TrainingConfig, examples: int) -> int:
    """Return the optimizer steps of an epoch over N examples."""
    return steps_per_epoch(examples, config.batch_size, config.gradient_accumulation_steps)


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Return the optimizer steps of a run over N examples."""
    every = epoch_steps(config, examples) * config.num_epochs
    return min(every, config.max_steps) if config.max_steps else every


def training_steps(
    config: TrainingConfig,
    train: Sequence[EncodedExample],
    after: int = 0,
    mix: Mix | None = None,
    rank: int = 0,
    ranks: int = 1,
    cost: PassCost = SMALL,
) -> Iterator[tuple[int, list[list[int]], list[Batch]]]:
    """Yield (epoch, indices, micro-batches) of every optimizer step after step ``after``, over epochs without end.

    The indices are those of the whole step; of ``ranks`` processes, process ``rank`` gets its share as micro-batches.

    Args:
        cost: the backend's overhead of a pass.
    """
    groups = prefix_groups(train, config.batch_size)
    done, skip = divmod(after, epoch_steps(config, len(train)))
    for epoch in count(done + 1):
        for step in _epoch_plan(config, train, groups, mix, epoch)[skip:]:
            own = [share for batch in step if (share := batch[rank::ranks])]
            yield epoch, step, step_parts(own, train, groups, config.micro_batch_tokens, cost)
        skip = 0


def _epoch_plan(
    config: TrainingConfig, train: Sequence[EncodedExample], groups: Sequence[int], mix: Mix | None, epoch: int
) -> list[Step]:
    """Return the micro-batches of each optimizer step of an epoch, as indices of training examples."""
    rest = (config.batch_size, config.gradient_accumulation_steps, config.seed, epoch)
    if mix and config.balance_batches:
        return balanced_plan(train, groups, mix.drawn(epoch), *rest)
    members = mix.epoch(epoch) if mix else range(len(train))
    plan = epoch_plan([train[i] for i in members], [groups[i] for i in members], *rest)
    return [[[members[i] for i in batch] for batch in step] for step in plan]


def validation_loss(backend: Backend, examples: Sequence[EncodedExample], batch_size: int) -> float:
    """Return the mean unweighted cross-entropy over every supervised token of a split, each counted once."""
    return validation_losses(backend, {"": examples}, batch_size)[0]


def validation_losses(
    backend: Backend, parts: Mapping[str, Sequence[EncodedExample]], batch_size: int
) -> tuple[float, dict[str, float]]:
    """Return the mean unweighted cross-entropy over every supervised token of a split, and that of each part."""
    sums: list[float] = []
    batches = 0
    for examples in parts.values():
        total, tokens = 0.0, 0
        for batch in in_order(examples, batch_size):
            if batches % backend.ranks == backend.rank:
                total, tokens = total + backend.evaluate(batch), tokens + batch.tokens
            batches += 1
        sums += [total, tokens]
    sums = backend.all_reduce_sum(sums)
    losses = {name: total / tokens for name, total, tokens in zip(parts, sums[::2], sums[1::2], strict=True)}
    return sum(sums[::2]) / sum(sums[1::2]), losses


class Trainer:
    """One run from a state to its end; ``run`` is the loop, the other methods follow each step."""

    def __init__(
        self,
        backend: Backend,
        config: TrainingConfig,
        train: Sequence[EncodedExample],
        valid: Sequence[EncodedExample],
        checkpoints: Checkpoints,
        state: TrainerState,
        emit: Listener,
        log_sizes: Callable[[], tuple[int, int]] = lambda: (0, 0),
        mix: Mix | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        """Take the inputs of a run; ``parts`` names the part of the validation split that each of its rows is in."""
        self.mix = mix
        self.parts: dict[str, list[EncodedExample]] = defaultdict(list)
        for name, example in zip(parts or [""] * len(valid), valid, strict=True):
            self.parts[name].append(example)
        self.backend, self.config, self.train, self.valid = backend, config, train, valid
        self.checkpoints, self.state, self.emit, self.log_sizes = checkpoints, state, emit, log_sizes
        self.total = total_steps(config, len(train))
        self.per_epoch = epoch_steps(config, len(train))
        # Above the memory that the device recommends for a model, a Mac begins to swap.
        self.memory_limit_gb = config.memory_limit_gb or backend.machine_memory() / 1e9
        self.monitor = Monitor(self._warn, self.memory_limit_gb, state.monitor, config.grad_clip)
        self.meter = Meter(state.meter)

    def _warn(self, message: str) -> None:
        self.emit(TrainingWarning(step=self.state.step, message=message))

    def run(self, limits: TrainingLimits) -> TrainingResult:
        """Train until the last step or a limit; the best adapter is on the device afterwards.

        Raises:
            UserError: a non-finite loss, or memory over the limit; the last good state is checkpointed.
            KeyboardInterrupt: ``limits.interrupted``; the state is checkpointed.
        """
        stopped = None
        place = (self.backend.rank, self.backend.ranks)
        steps = training_steps(self.config, self.train, self.state.step, self.mix, *place, self.backend.pass_cost)
        while self.state.step < self.total and stopped is None:
            self._one_step(*next(steps))
            stopped = self._after_step(limits)
        self._save()
        best = self.state.best_step
        if self.config.keep_best and self.valid and best != self.state.step and self.checkpoints.intact(best):
            self.checkpoints.load(self.backend, best)
        else:
            best = self.state.step
        s = self.state
        return TrainingResult(
            steps=s.step,
            loss=s.loss,
            validation_loss=s.last_validation,
            best_step=best,
            tokens=s.tokens,
            seconds=s.seconds,
            stopped=stopped,
        )

    def _one_step(self, epoch: int, members: list[list[int]], micro_batches: list[Batch]) -> None:
        started, step = time.perf_counter(), self.state.step + 1
        rate = learning_rate(self.config, step, self.total)
        result = self.backend.train_step(micro_batches, step, rate)
        if not is_finite(result.loss, result.grad_norm):
            self._save()
            raise UserError(self._not_finite(step, members, result))
        self.state.step, self.state.tokens = step, self.state.tokens + result.tokens
        seconds = time.perf_counter() - started
        self.state.seconds += seconds
        self.meter.add(result, seconds)
        self.monitor.after_step(step, result.grad_norm)
        if step == 1 or step % self.config.log_steps == 0 or step == self.total:
            memory = self.backend.peak_memory() / 1e9
            event = Progress(step=step, epoch=epoch, learning_rate=rate, peak_memory_gb=memory, **self.meter.progress())
            self.state.loss = event.loss
            self.emit(event)

    def _not_finite(self, step: int, members: list[list[int]], result: StepResult) -> str:
        rows = ", ".join(str(i + 1) for batch in members for i in batch)
        found = f"step {step}: the loss is {result.loss} (gradient norm {result.grad_norm}) on the examples {rows}"
        if step > 1:
            return f"{found}; the state of step {self.state.step} is kept: lower learning_rate or remove those examples"
        if "F16" in self.backend.base.dtypes:
            advice = "its weights are float16, whose range ends at 65504: use a bfloat16 or float32 copy of the base"
        else:
            advice = "use another copy of the base, or remove those examples"
        begin = "the base with the init_adapter" if self.config.init_adapter else "the base itself"
        return f"{found} before anything was learned, so that {begin} gives it; {advice}"

    def _after_step(self, limits: TrainingLimits) -> str | None:
        """Log, evaluate and save after a step; return a reason if the run is to end here."""
        step = self.state.step
        stopped = None
        if step % self.per_epoch == 0:
            self.monitor.after_epoch(step // self.per_epoch, self.meter.epoch_mean())
        if self.valid and (step % (self.config.eval_steps or self.per_epoch) == 0 or step == self.total):
            stopped = self._evaluate()
        # All processes must act on a limit that one of them reaches.
        memory, interrupted, expired = self.backend.all_reduce_sum(
            [
                self.monitor.over_memory(self.backend.peak_memory()),
                limits.interrupted(),
                limits.deadline is not None and time.time() >= limits.deadline,
            ]
        )
        if memory:
            self._save()
            raise UserError(
                f"step {step}: the peak memory is over memory_limit_gb ({self.memory_limit_gb:.4g}); the state is "
                "kept: lower batch_size or max_seq_length, or set grad_checkpoint: true"
            )
        if interrupted:
            self._save()
            raise KeyboardInterrupt
        if expired and step < self.total:
            stopped = stopped or "time budget"
        if step % self.config.save_steps == 0 and step < self.total and stopped is None:
            self._save()
        return stopped

    def _evaluate(self) -> str | None:
        state = self.state
        mean, losses = validation_losses(self.backend, self.parts, self.config.batch_size)
        best_before = state.best_loss
        state.last_validation = mean
        epoch = -(-state.step // self.per_epoch)
        event = Evaluation(step=state.step, epoch=epoch, validation_loss=mean, losses=losses)
        loss = event.kept_by(self.config.keep_best_by)
        if state.best_loss is None or loss < state.best_loss:
            state.best_step, state.best_loss, state.evals_since_best = state.step, loss, 0
        else:
            state.evals_since_best += 1
        self.emit(event)
        self.monitor.after_evaluation(state.step, state.loss, loss, best_before)
        if state.evals_since_best == 0:
            self._save()
        patience = self.config.early_stopping_patience
        return "early stopping" if patience is not None and state.evals_since_best >= patience else None

    def _save(self) -> None:
        """Write a checkpoint of this state, unless there is one."""
        if self.checkpoints.intact(self.state.step):
            return
        self.state.meter, self.state.monitor = self.meter.sums, self.monitor.state
        self.emit(Checkpoint(step=self.state.step))
        self.state.metrics_bytes, self.state.telemetry_bytes = self.log_sizes()
        self.checkpoints.save(self.backend, self.state)


class Meter:
    """Sums since the last report and since the epoch's start, weighted by supervised tokens."""

    def __init__(self, sums: dict[str, float]) -> None:
        empty = dict.fromkeys(("loss", "plain", "norm", "supervised", "seen", "seconds"), 0.0)
        self.sums = {**empty, "epoch_loss": 0.0, "epoch_tokens": 0.0, **sums}

    def add(self, result: StepResult, seconds: float) -> None:
        """Add the measurements of a step."""
        s, supervised = self.sums, result.tokens
        s["loss"] += result.loss * supervised
        s["plain"] += result.plain_loss * supervised
        s["norm"] = max(s["norm"], result.grad_norm)
        s["supervised"] += supervised
        s["seen"] += result.padded_tokens
        s["seconds"] += seconds
        s["epoch_loss"] += result.loss * supervised
        s["epoch_tokens"] += supervised

    def epoch_mean(self) -> float:
        """Return the mean loss of the epoch that ends here, and reset it."""
        mean = self.sums["epoch_loss"] / max(1.0, self.sums["epoch_tokens"])
        self.sums["epoch_loss"] = self.sums["epoch_tokens"] = 0.0
        return mean

    def progress(self) -> dict[str, float]:
        """Return the means, the largest gradient norm and the speed since the last call, and reset them."""
        s = self.sums
        means = {
            "loss": s["loss"] / s["supervised"],
            "unweighted_loss": s["plain"] / s["supervised"],
            "grad_norm": s["norm"],
            "tokens_per_second": s["seen"] / s["seconds"],
            "supervised_tokens_per_second": s["supervised"] / s["seconds"],
        }
        s.update(dict.fromkeys(("loss", "plain", "norm", "supervised", "seen", "seconds"), 0.0))
        return means

"""Runner of our side: the timed training loop over either backend's step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..backends.loss_plan import LossPath
from ..config import TrainingConfig
from ..data.collate import with_same_prefix
from ..training.trainer import training_steps
from .report import RATE, Spec, Step, batch_flops
from .synthetic_data import Row


def timed_steps(
    spec: Spec,
    rows: list[Row],
    config: TrainingConfig,
    step: Callable[..., Any],
    path: LossPath,
    finish: Callable[[], None] = lambda: None,
) -> list[Step]:
    """Train for the spec's steps and return each step with its time.

    Args:
        step: a backend's ``TrainStep``.
        finish: waits until the device has finished all work.
    """
    done: list[Step] = []
    for part, count in spec.parts(rows):
        examples = [row.encoded() for row in part]
        steps = training_steps(config, examples)
        for _ in range(count):
            _, members, micro_batches = next(steps)
            started = time.perf_counter()
            step(micro_batches, len(done) + 1, RATE)
            finish()
            flops = sum(
                batch_flops(spec.config, batch, path, again=number > 0)
                for together in with_same_prefix(micro_batches)
                for number, batch in enumerate(together)
            )
            done.append(
                Step(
                    seconds=time.perf_counter() - started,
                    flops=flops,
                    supervised=sum(batch.tokens for batch in micro_batches),
                    real=sum(len(examples[i]) for batch in members for i in batch),
                )
            )
    return done


def first_loss(spec: Spec, rows: list[Row], config: TrainingConfig, step: Callable[..., Any]) -> float:
    """Return the mean loss over the answers of rows as our step computes it, at learning rate 0.

    Args:
        step: a ``TrainStep`` that is not used again, since its optimizer state has changed.
    """
    steps = training_steps(config, [row.encoded() for row in rows])
    results = [step(next(steps)[2], number + 1, 0.0) for number in range(len(rows) // spec.batch_size)]
    return sum(result.plain_loss * result.tokens for result in results) / sum(result.tokens for result in results)


def in_our_order(spec: Spec, rows: list[Row], config: TrainingConfig) -> list[Row]:
    """Return the rows in the order of our steps."""
    steps = training_steps(config, [row.encoded() for row in rows])
    taken = [next(steps)[1] for _ in range(spec.steps)]
    return [rows[i] for members in taken for batch in members for i in batch]

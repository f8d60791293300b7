"""Our side's steps, timed: the same loop over every backend's step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..backends.paths import LossPath
from ..config import TrainingConfig
from ..data.batches import with_same_prefix
from ..training.trainer import training_steps
from .report import RATE, Spec, Step, batch_flops
from .rows import Row


def timed_steps(
    spec: Spec,
    rows: list[Row],
    config: TrainingConfig,
    step: Callable[..., Any],
    path: LossPath,
    finish: Callable[[], None] = lambda: None,
) -> list[Step]:
    """Train for the spec's steps.

    Args:
        step: a backend's ``TrainStep``.
        finish: wait until the device has done everything.
    """
    examples = [row.encoded() for row in rows]
    done = []
    steps = training_steps(config, examples)
    for number in range(1, spec.steps + 1):
        _, members, micro_batches = next(steps)
        started = time.perf_counter()
        step(micro_batches, number, RATE)
        finish()
        done.append(
            Step(
                seconds=time.perf_counter() - started,
                flops=sum(
                    batch_flops(spec.config, batch, path, again=number > 0)
                    for together in with_same_prefix(micro_batches)
                    for number, batch in enumerate(together)
                ),
                supervised=sum(batch.tokens for batch in micro_batches),
                real=sum(len(examples[i]) for batch in members for i in batch),
            )
        )
    return done


def in_our_order(spec: Spec, rows: list[Row], config: TrainingConfig) -> list[Row]:
    """The rows as our steps take them."""
    steps = training_steps(config, [row.encoded() for row in rows])
    taken = [next(steps)[1] for _ in range(spec.steps)]
    return [rows[i] for members in taken for batch in members for i in batch]

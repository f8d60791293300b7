"""Learning rate schedules: a linear warm-up, then constant, linear or cosine decay to zero."""

from __future__ import annotations

import math

from ..config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of optimizer step ``step`` (1 to ``total_steps``), as in transformers' schedules.

    The first step already learns: warm-up reaches the full rate at step ``warmup_steps``. A warm-up longer than
    half the run is shortened to half of it, or a short run would never learn at full rate.
    """
    warmup = min(config.warmup_steps, total_steps // 2)
    if step <= warmup:
        return config.learning_rate * step / warmup
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    if config.lr_schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.lr_schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate

"""Training diagnostics: non-finite loss, gradient norm, overfitting and memory, reported during training.

The thresholds are the project's (spec, training section 2), from runs on short chat data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

GRAD_NORM = 5.0
NOT_LEARNING = 1.5
MEMORISING = 0.4
# Smaller differences are the evaluation's own noise.
RISES = 1.02

Warn = Callable[[str], None]


class Monitor:
    """Training monitor: each warning is given once for each run; ``state`` is saved for a resumed run."""

    def __init__(
        self, warn: Warn, memory_limit_gb: float, state: dict[str, Any], grad_clip: float | None = None
    ) -> None:
        self._warn, self._memory_limit = warn, memory_limit_gb
        self._grad_clip = grad_clip or math.inf
        self.state: dict[str, Any] = {"given": [], "epoch_losses": [], "rises": 0, **state}

    def _once(self, kind: str, message: str) -> None:
        if kind not in self.state["given"]:
            self.state["given"].append(kind)
            self._warn(message)

    def after_step(self, step: int, grad_norm: float) -> None:
        """Check the gradient norm that the optimizer receives; ``grad_norm`` is measured before clipping."""
        if min(grad_norm, self._grad_clip) > GRAD_NORM:
            self._once(
                "grad_norm",
                f"step {step}: the gradient norm is {grad_norm:.1f}, above {GRAD_NORM:g}; "
                "if the loss jumps, lower learning_rate or set grad_clip: 1.0",
            )

    def after_epoch(self, epoch: int, loss: float) -> None:
        """Check the training loss: ``loss`` is the mean over the epoch."""
        losses = self.state["epoch_losses"]
        losses.append(loss)
        if len(losses) == 1 and loss > NOT_LEARNING:
            self._once(
                "not_learning",
                f"after the first epoch the loss is {loss:.2f}, above {NOT_LEARNING:g}: the model is hardly learning; "
                "raise learning_rate or lora_rank, or look at the data with --dry-run",
            )
        if len(losses) >= 3 and losses[-1] >= losses[-3]:
            self._once(
                "no_progress",
                f"epoch {epoch}: the loss has not fallen for two epochs ({losses[-3]:.3f} to {losses[-1]:.3f}); "
                "another learning_rate may help, or the run is done",
            )

    def after_evaluation(self, step: int, loss: float, validation: float, best: float | None) -> None:
        """Check for overfitting: a single rise is normal, so it takes two evaluations in a row above the best."""
        rises = best is not None and validation > RISES * best
        self.state["rises"] = self.state["rises"] + 1 if rises else 0
        if loss < MEMORISING and self.state["rises"] >= 2:
            self._once(
                "memorising",
                f"step {step}: the loss is {loss:.2f} while the validation loss rises ({best:.3f} to "
                f"{validation:.3f}): the model is memorising; train for fewer epochs, or set early_stopping_patience",
            )

    def over_memory(self, peak_bytes: int) -> bool:
        """Return True if the memory limit is exceeded."""
        return peak_bytes > self._memory_limit * 1e9


def is_finite(*values: float) -> bool:
    """Return True if a step's measurements are finite."""
    return all(map(math.isfinite, values))

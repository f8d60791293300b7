"""Loss plan: the optimizations that a model allows in its loss, found by each backend, and the note if it is slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LossPath:
    """Loss computation that a model allows.

    Attributes:
        plain: True if the model itself must compute the logits of every position.
        share_prefix: True if a common prefix may be computed once for a batch.
        narrow: True if the last layer's MLP may see supervised positions only.
        checkpoint: True if gradient checkpointing recomputes a layer's activations in the backward pass; of the
            torch backend, MLX's does it in the layers themselves.
        trunk: the path of the part that ends before the logits, empty where they are ``plain``; of the MLX backend.
        vocabulary: the length of the logits; of the MLX backend.
    """

    plain: bool = False
    share_prefix: bool = False
    narrow: bool = False
    checkpoint: bool = False
    trunk: str = ""
    vocabulary: int = 0

    @property
    def note(self) -> str | None:
        """Note for the user if something is slower than it could be, or ``None``."""
        slower = []
        if self.plain:
            slower.append("its logits cannot be computed at chosen positions alone: every position's are computed")
        if not self.share_prefix:
            slower.append("its caches cannot be shared by a batch: common prefixes are computed in each row")
        return "; ".join(slower) or None


def agrees(attempt: Callable[[], np.ndarray], expected: np.ndarray, float32: bool) -> bool:
    """Return True if another way of computing logits works and gives the same logits, but for rounding.

    Args:
        expected: the model's own logits, of the shape that ``attempt`` gives.
        float32: True if they were computed in float32, False if in a narrower type.
    """
    try:
        difference = np.abs(attempt().reshape(expected.shape) - expected).max()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return bool(difference <= (1e-4 if float32 else 5e-2) * (1 + np.abs(expected).max()))

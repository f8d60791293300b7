"""How a model's losses may be computed: found by each backend, with the same words for what is slower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LossPath:
    """How losses are computed for a model.

    Attributes:
        plain: whether every position's logits must be computed, by the model itself.
        share_prefix: whether a prefix may be computed once for a batch.
        narrow: whether the last layer's MLP may see supervised positions only.
        checkpoint: whether a layer's activations are computed again in the backward pass instead of kept; of the
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
        """What the user should know, if something is slower than it could be."""
        slower = []
        if self.plain:
            slower.append("its logits cannot be computed at chosen positions alone: every position's are computed")
        if not self.share_prefix:
            slower.append("its caches cannot be shared by a batch: common prefixes are computed in each row")
        return "; ".join(slower) or None


def agrees(attempt: Callable[[], np.ndarray], expected: np.ndarray, float32: bool) -> bool:
    """Whether another way of computing logits works and gives the same, but for rounding.

    Args:
        expected: the model's own logits, of the shape that ``attempt`` gives.
        float32: whether they were computed in float32, or in a shorter type.
    """
    try:
        difference = np.abs(attempt().reshape(expected.shape) - expected).max()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return bool(difference <= (1e-4 if float32 else 5e-2) * (1 + np.abs(expected).max()))

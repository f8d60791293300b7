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
    """

    plain: bool = False
    share_prefix: bool = False
    narrow: bool = False
    checkpoint: bool = False

    @property
    def note(self) -> str | None:
        """What the user should know, if something is slower than it could be."""
        if self.plain:
            return "this architecture's logits are not a plain product of hidden states: every position's are computed"
        if not self.share_prefix:
            return "this architecture's caches are not plain keys and values: common prefixes are computed in each row"
        return None


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

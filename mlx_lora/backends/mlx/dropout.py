"""Reproducible dropout: the masks of a checkpointed layer follow from a PRNG key that is passed to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

# PRNG keys of the masks, innermost last; MLX's global state where there is none.
_keys: list[mx.array] = []


@contextmanager
def drawn_from(key: mx.array) -> Iterator[None]:
    """Draw the dropout masks in the block from a PRNG key."""
    # The key may be an input of a differentiated function, and has no gradient.
    _keys.append(mx.stop_gradient(key))
    try:
        yield
    finally:
        _keys.pop()


def new_key() -> mx.array:
    """Draw a PRNG key from MLX's global state."""
    return mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)


class Dropout(nn.Module):
    """Dropout as in MLX, with masks that ``drawn_from`` can repeat."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self._kept = 1 - p

    def __call__(self, x: mx.array) -> mx.array:
        """Return the input with dropout applied in training mode."""
        if self._kept == 1 or not self.training:
            return x
        key = None
        if _keys:
            _keys[-1], key = mx.random.split(_keys[-1])
        return (mx.random.bernoulli(self._kept, x.shape, key=key) * x) * (1 / self._kept)

"""Dropout that can be computed again: within a checkpointed layer the masks follow from a key that is passed to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

# The keys that masks are drawn from, innermost last; MLX's own state where there is none.
_keys: list[mx.array] = []


@contextmanager
def drawn_from(key: mx.array) -> Iterator[None]:
    """Draw the masks in the block from a key."""
    # It may be an input of what is differentiated, and has no gradient.
    _keys.append(mx.stop_gradient(key))
    try:
        yield
    finally:
        _keys.pop()


def new_key() -> mx.array:
    """Draw a key from MLX's own state."""
    return mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)


class Dropout(nn.Module):
    """MLX's dropout, with masks that ``drawn_from`` can repeat."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self._kept = 1 - p

    def __call__(self, x: mx.array) -> mx.array:
        if self._kept == 1 or not self.training:
            return x
        key = None
        if _keys:
            _keys[-1], key = mx.random.split(_keys[-1])
        return (mx.random.bernoulli(self._kept, x.shape, key=key) * x) * (1 / self._kept)

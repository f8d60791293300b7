"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .loss import PrefixCache


def checkpoint_layers(model: nn.Module) -> None:
    """Checkpoint every layer of this model, and of no other that shares its class."""
    for layer in model.layers:
        plain = type(layer)
        layer.__class__ = type(plain.__name__, (plain,), {"__call__": _checkpointed(plain)})


def _checkpointed(plain: type) -> Any:
    call = plain.__call__

    def forward(self: nn.Module, x: mx.array, mask: Any = None, cache: Any = None, **options: Any) -> Any:
        if cache is not None and not isinstance(cache, PrefixCache):
            # A cache that is written to, when answers are generated: nothing to compute again there.
            return call(self, x, mask, cache, **options)
        # What a checkpointed function leaves in a cache has no gradient: keys and values go in and out as arrays.
        shared: PrefixCache | None = cache

        def inner(parameters: dict, x: mx.array, *prefix: mx.array) -> Any:
            self.update(parameters)
            own = None if shared is None else PrefixCache(*prefix)
            out = call(self, x, mask, own, **options)
            return out if own is None else (out, *own.arrays)

        if shared is None:
            return mx.checkpoint(inner)(self.trainable_parameters(), x)
        out, *arrays = mx.checkpoint(inner)(self.trainable_parameters(), x, *shared.arrays)
        shared.fill(*arrays)
        return out

    return forward

"""Gradient checkpointing: a layer's activations are recomputed in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .lora import drawn_from, new_key
from .prefix import arrays_of, copies, set_arrays


def checkpoint_layers(model: nn.Module) -> None:
    """Checkpoint every layer of this model, without changing other models of its class."""
    for layer in model.layers:
        if isinstance(layer, nn.Module):
            plain = type(layer)
            layer.__class__ = type(plain.__name__, (plain,), {"__call__": _checkpointed(plain)})


def _is_cache(leaf: Any) -> bool:
    return hasattr(leaf, "state") and not isinstance(leaf, (mx.array, nn.Module))


def _checkpointed(plain: type) -> Any:
    call = plain.__call__

    def forward(self: nn.Module, *given: Any, **options: Any) -> Any:
        if not self.training:
            # Nothing is recomputed without a gradient.
            return call(self, *given, **options)
        # Values that a checkpointed function captures or caches get no gradient: pass every array in and out.
        leaves = [leaf for _, leaf in tree_flatten((given, options))]
        caches = [leaf for leaf in leaves if _is_cache(leaf)]
        before = copies(caches)
        left: list[Any] = []

        def inner(parameters: dict, key: mx.array, arrays: list[mx.array], states: list[mx.array]) -> Any:
            self.update(parameters)
            own = copies(before)
            set_arrays(own, states)
            following, stored = iter(arrays), iter(own)

            def filled(leaf: Any) -> Any:
                return next(stored) if _is_cache(leaf) else next(following) if isinstance(leaf, mx.array) else leaf

            own_given, own_options = tree_map(filled, (given, options))
            with drawn_from(key):
                out = call(self, *own_given, **own_options)
            left[:] = [out, own]
            return _distinct([*_arrays(out), *arrays_of(own)])

        arrays = [leaf for leaf in leaves if isinstance(leaf, mx.array)]
        given_again = self.trainable_parameters(), new_key(), arrays, arrays_of(caches)
        following = iter(mx.checkpoint(inner)(*given_again))
        out, own = left
        out = tree_map(lambda leaf: next(following) if isinstance(leaf, mx.array) else leaf, out)
        set_arrays(own, following)
        for cache, after in zip(caches, own, strict=True):
            vars(cache).update(vars(after))
        return out

    return forward


def _arrays(tree: Any) -> list[mx.array]:
    return [leaf for _, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)]


def _distinct(arrays: list[mx.array]) -> list[mx.array]:
    """Return the arrays with repeated ones copied: MLX drops a gradient of an output that occurs twice."""
    seen: set[int] = set()
    made = []
    for array in arrays:
        made.append(mx.contiguous(array) if id(array) in seen else array)
        seen.add(id(array))
    return made

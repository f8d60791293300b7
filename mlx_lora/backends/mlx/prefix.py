"""Shared prefix through the model's own KV caches: computed once as a batch of one, then broadcast over the rows.

Generation uses the same caches, so that the model's own code handles windows, recurrent and latent states.
Gradients flow through their arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache

from ..loss_plan import LossPath
from .trunk import hidden_states


def caches_after(model: nn.Module, path: LossPath, prefix: mx.array) -> list[Any]:
    """Return the model's KV caches, one for each layer, after a prefix [length]."""
    caches = make_prompt_cache(model)
    if path.trunk:
        hidden_states(model, path.trunk, prefix[None], caches)
    else:
        model(prefix[None], cache=caches)
    return caches


def _single(caches: Iterable[Any]) -> Iterator[Any]:
    for cache in caches:
        yield from _single(cache.caches) if hasattr(cache, "caches") else (cache,)


def arrays_of(caches: Iterable[Any]) -> list[mx.array]:
    """Return every array in the caches' states, in order."""
    leaves = (leaf for cache in _single(caches) for _, leaf in tree_flatten(cache.state))
    return [leaf for leaf in leaves if isinstance(leaf, mx.array)]


def set_arrays(caches: Iterable[Any], arrays: Iterable[mx.array]) -> None:
    """Set arrays in the order of ``arrays_of`` as the caches' states."""
    following = iter(arrays)
    for cache in _single(caches):
        cache.state = tree_map(lambda leaf: next(following) if isinstance(leaf, mx.array) else leaf, cache.state)


def broadcast(caches: Sequence[Any], rows: int) -> None:
    """Repeat the states of a batch of one for each of ``rows`` rows."""

    def repeated(array: mx.array) -> mx.array:
        single = array.ndim > 1 and array.shape[0] == 1
        return mx.broadcast_to(array, (rows, *array.shape[1:])) if single else array

    set_arrays(caches, map(repeated, arrays_of(caches)))


def copies(caches: Iterable[Any]) -> list[Any]:
    """Return independent copies of caches with the same states."""
    made = []
    for cache in caches:
        twin = copy.copy(cache)
        if hasattr(cache, "caches"):
            twin.caches = tuple(copies(cache.caches))
        else:
            # Lists within the state are copied.
            twin.state = tree_map(lambda leaf: leaf, cache.state)
        made.append(twin)
    return made


def fresh_copies(caches: Iterable[Any]) -> list[Any]:
    """Return copies with arrays of their own: caches write into their arrays in place."""
    twins = copies(caches)
    set_arrays(twins, map(mx.array, arrays_of(twins)))
    return twins


def windows(model: nn.Module) -> list[int]:
    """Return the lengths of the sliding or chunked windows of the KV caches, shortest first."""
    lengths = (
        getattr(cache, name, None) for cache in _single(make_prompt_cache(model)) for name in ("max_size", "chunk_size")
    )
    return sorted({length for length in lengths if isinstance(length, int)})

"""Layer streaming: float32 logits of a model whose blocks are in memory one at a time.

A block's weights are read when it is called and dropped afterwards, so that a model larger than memory can run.
All prompts go through a block together: each weight is read once. On a CPU, float32 is the only type that MLX
multiplies with a BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import load_model

from ...errors import guarded
from ...models.resolve import ResolvedModel, check_safetensors
from ..adapter_format import ADAPTER_FILE, read_description
from ..errors import fitting_its_base
from .blas import one_core_free
from .lora import add_adapter, load_weights

# Elements of an embedding or head matrix held in float32 at a time.
PIECE = 1 << 24
# Freed buffers kept for reuse.
CACHE = 256 << 20
# Prompts share a forward pass while padding at most doubles the shortest.
PADDING = 2


class Rows(Protocol):
    """Lazily read weight matrix, in float32."""

    def take(self, rows: np.ndarray) -> mx.array:
        """Return selected rows, float32 [rows, columns]."""

    def pieces(self) -> Iterator[mx.array]:
        """Yield all rows in order, in chunks, float32 [rows, columns]."""

    def whole(self) -> mx.array:
        """Return the whole weight, float32."""


@dataclass
class ArrayRows:
    """Rows of an MLX array, which may not have been read yet."""

    array: mx.array

    def take(self, rows: np.ndarray) -> mx.array:
        """Return selected rows, float32 [rows, columns]."""
        return self.array[mx.array(rows)].astype(mx.float32)

    def pieces(self) -> Iterator[mx.array]:
        """Yield all rows in order, in chunks, float32 [rows, columns]."""
        step = max(1, PIECE // self.array.shape[-1])
        for first in range(0, self.array.shape[0], step):
            yield self.array[first : first + step].astype(mx.float32)

    def whole(self) -> mx.array:
        """Return the whole array, float32 if it is floating-point."""
        # Indices and packed weights stay as they are.
        return self.array.astype(mx.float32) if mx.issubdtype(self.array.dtype, mx.floating) else self.array


# Lookup of a weight by its full name; ``None`` selects the model's own.
Find = Callable[[str], Rows | None]


def load_lazily(base: ResolvedModel, adapter: Path | None = None) -> nn.Module:
    """Load a model with its adapter lazily: weights are read from their files when they are used.

    Raises:
        UserError: mlx-lm cannot load it, or the adapter does not fit.
    """
    with guarded(f"{base.name}: mlx-lm cannot load this model"):
        model, _ = load_model(base.path, lazy=True, model_config=base.config_overrides)
    if adapter is not None:
        with fitting_its_base(adapter):
            add_adapter(model, read_description(adapter))
            check_safetensors(adapter / ADAPTER_FILE)
            load_weights(model, mx.load(str(adapter / ADAPTER_FILE)))
    model.eval()
    return model


def streamed_logits(
    load: Callable[[], nn.Module],
    prompts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    find: Find | None = None,
) -> list[np.ndarray]:
    """Return the logits of each prompt after the tokens at its positions, float32 [positions, vocabulary].

    Args:
        load: builds the model, its weights not read yet; called once per forward pass.
        find: lookup of weights that replace the model's own.
    """
    found: dict[int, np.ndarray] = {}
    before = mx.set_cache_limit(CACHE)
    try:
        for group in _groups([len(prompt) for prompt in prompts]):
            chosen = [prompts[i] for i in group], [positions[i] for i in group]
            try:
                with one_core_free():
                    answers = _pass(load(), *chosen, find or (lambda name: None))
            except (ValueError, TypeError, AttributeError, IndexError):
                if find is not None:
                    raise
                # A module after the last block needs every position, or a block is called twice.
                answers = _whole(load(), *chosen)
            found.update(zip(group, answers, strict=True))
            mx.clear_cache()
    finally:
        mx.set_cache_limit(before)
    return [found[i] for i in range(len(prompts))]


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of prompts, bucketed by length."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or lengths[i] > PADDING * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    return groups


def _pass(
    model: nn.Module, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], find: Find
) -> list[np.ndarray]:
    """Run one forward pass; attention is causal, so that right padding changes nothing."""
    tokens = np.zeros((len(prompts), max(map(len, prompts))), dtype=np.int32)
    places = np.zeros((len(prompts), max(map(len, positions))), dtype=np.int32)
    for i, (prompt, chosen) in enumerate(zip(prompts, positions, strict=True)):
        tokens[i, : len(prompt)], places[i, : len(chosen)] = prompt, chosen
    index = mx.array(places)[..., None]

    def at_places(values: Any) -> mx.array:
        if not isinstance(values, mx.array) or values.ndim != 3 or values.shape[:2] != tokens.shape:
            raise ValueError("the last block's output is not one vector a token")
        return mx.take_along_axis(values, index, axis=1)

    _prepare(model, find, at_places)
    logits = model(mx.array(tokens))
    return [np.array(row[: len(chosen)].astype(mx.float32)) for row, chosen in zip(logits, positions, strict=True)]


def _whole(model: nn.Module, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Run one forward pass with the whole model in memory."""
    model.set_dtype(mx.float32)
    pairs = zip(prompts, positions, strict=True)
    with guarded("mlx-lm cannot compute with this model", "; check its config.json"):
        return [np.array(model(mx.array([list(p)]))[0, mx.array(list(at))].astype(mx.float32)) for p, at in pairs]


def _prepare(model: nn.Module, find: Find, at_places: Callable[[Any], Any]) -> None:
    """Patch blocks, embeddings and large matrices to read their weights when they are called."""
    blocks = {id(block): i for i, block in enumerate(model.layers) if isinstance(block, nn.Module)}
    last = len(model.layers) - 1
    inside: tuple[str, ...] = ()
    for path, module in sorted(model.named_modules(), key=lambda item: item[0].count(".")):
        if path.startswith(inside):
            continue
        if id(module) in blocks:
            inside = (*inside, f"{path}.")
            _stream_block(module, path, find, at_places if blocks[id(module)] == last else None)
        elif type(module) in (nn.Embedding, nn.Linear):
            rows = find(f"{path}.weight") or ArrayRows(module.weight)
            _become(module, _embedding(rows) if isinstance(module, nn.Embedding) else _linear(rows))
        else:
            _set(module, _read(module.parameters(), f"{path}." if path else "", find, own=True))


def _read(parameters: Any, prefix: str, find: Find, own: bool = False) -> list[tuple[str, mx.array]]:
    """Return the parameters in float32; only a module's own if ``own``."""
    named = [(name, value) for name, value in tree_flatten(parameters) if not (own and "." in name)]
    return [(name, (find(prefix + name) or ArrayRows(value)).whole()) for name, value in named]


def _set(module: nn.Module, parameters: list[tuple[str, mx.array]]) -> None:
    module.update(tree_unflatten(parameters))


def _become(module: nn.Module, methods: dict[str, Any]) -> None:
    """Replace methods of one module, without changing other modules of its class."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), methods)


def _stream_block(block: nn.Module, path: str, find: Find, after: Callable[[Any], Any] | None) -> None:
    call = type(block).__call__

    def streamed(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        names = [name for name, _ in tree_flatten(self.parameters())]
        _set(self, _read(self.parameters(), f"{path}.", find))
        found = call(self, *arguments, **options)
        found = found if after is None else after(found)
        mx.eval(found)
        # Dropped: a second call of the same block fails with a shape error.
        _set(self, [(name, mx.zeros((0,))) for name in names])
        return found

    _become(block, {"__call__": streamed})


def _embedding(rows: Rows) -> dict[str, Any]:
    def look_up(self: nn.Module, tokens: mx.array) -> mx.array:
        return rows.take(np.array(tokens).ravel()).reshape(*tokens.shape, -1)

    return {"__call__": look_up, "as_linear": lambda self, values: _product(values, rows)}


def _linear(rows: Rows) -> dict[str, Any]:
    def product(self: nn.Module, values: mx.array) -> mx.array:
        found = _product(values, rows)
        return found + self.bias.astype(mx.float32) if "bias" in self else found

    return {"__call__": product}


def _product(values: mx.array, rows: Rows) -> mx.array:
    parts = []
    for piece in rows.pieces():
        parts.append(values @ piece.T)
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=-1)

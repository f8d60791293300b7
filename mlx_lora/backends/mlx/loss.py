"""The loss of a batch: logits at supervised positions only, a common prefix computed once; exact, and proved so.

What a model allows is found by asking it: at load, a few tokens go through both ways and must agree. Where they do
not (scaled logits, sliding windows, recurrent layers), the plain computation is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from ...data.batches import Batch
from ..paths import LossPath, agrees

# Logits held at once, in elements: 64 MB in float32 on a GPU, and what fits a CPU's caches, whatever the vocabulary.
LOGITS_AT_ONCE = {mx.gpu: 2**24, mx.cpu: 2**20}
# Fewer positions than these at once make slow products.
LEAST_POSITIONS = 16
PROBE = 12


class PrefixCache:
    """A layer's keys and values of the common prefix, kept as ordinary arrays that gradients flow through.

    The first call fills it with the prefix (a batch of one); later calls see it in front of each row.
    """

    def __init__(self, *arrays: mx.array) -> None:
        self.offset = 0
        self.arrays: tuple[mx.array, ...] = ()
        if arrays:
            self.fill(*arrays)

    def fill(self, keys: mx.array, values: mx.array) -> None:
        """Hold the prefix's keys and values, [1, heads, length, dimension]."""
        self.arrays, self.offset = (keys, values), keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to; all of shape [batch, heads, length, dimension]."""
        if not self.arrays:
            self.fill(keys, values)
            return keys, values

        def prepend(prefix: mx.array, own: mx.array) -> mx.array:
            return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)

        return prepend(self.arrays[0], keys), prepend(self.arrays[1], values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """The string "causal" (aligned at the end), which has a fused backward; an array only where asked for."""
        if return_array or window_size is not None:
            return create_causal_mask(n, self.offset, window_size=window_size)
        return "causal"


class NarrowedLayer:
    """A model's last layer whose MLP sees only the positions that will be spoken from: no other is used after it.

    Args:
        layer: a pre-norm layer, as in Llama, Qwen and Mistral.
        positions: int [positions], flat indices into [batch, length].
    """

    def __init__(self, layer: nn.Module, positions: mx.array) -> None:
        self.layer, self.positions = layer, positions

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        h = x + self.layer.self_attn(self.layer.input_layernorm(x), mask, cache)
        h = h.reshape(-1, h.shape[-1])[self.positions][None]
        return h + self.layer.mlp(self.layer.post_attention_layernorm(h))


def head_of(model: nn.Module) -> tuple[nn.Module, Callable[[mx.array], mx.array]]:
    """(module, function from hidden states [..., hidden] to logits [..., vocabulary])."""
    if "lm_head" in model:
        return model.lm_head, model.lm_head
    return model.model.embed_tokens, model.model.embed_tokens.as_linear


def find_path(model: nn.Module) -> LossPath:
    """What the model allows, by trying it on a few tokens."""
    tokens = mx.arange(1, PROBE + 1)[None]
    expected = model(tokens)
    try:
        _, head = head_of(model)
        # The very same operations: not one bit may differ.
        if not mx.array_equal(head(model.model(tokens)), expected).item():
            return LossPath(plain=True)
    except (AttributeError, TypeError, ValueError):
        return LossPath(plain=True)
    caches = make_prompt_cache(model)
    shares = all(type(cache) is KVCache for cache in caches)
    shares = shares and _agree(lambda: head(_after_prefix(model, tokens)), expected[:, 5:])
    positions = mx.array([3, 7, 8])
    narrow = _agree(lambda: head(_hidden(model, tokens, positions, None, narrow=True)), expected[:, positions])
    return LossPath(False, shares, narrow)


def _after_prefix(model: nn.Module, tokens: mx.array) -> mx.array:
    caches = [PrefixCache() for _ in model.layers]
    model.model(tokens[:, :5], cache=caches)
    return model.model(tokens[:, 5:], cache=caches)


def _agree(attempt: Callable[[], mx.array], expected: mx.array) -> bool:
    def numbers(logits: mx.array) -> np.ndarray:
        return np.array(logits.astype(mx.float32))

    return agrees(lambda: numbers(attempt()), numbers(expected), expected.dtype == mx.float32)


def _hidden(
    model: nn.Module, ids: mx.array, positions: mx.array, caches: list[PrefixCache] | None, narrow: bool
) -> mx.array:
    """Post-norm hidden states [1, positions, hidden] at flat positions of ``ids`` [batch, length]."""
    if not narrow:
        hidden = model.model(ids, cache=caches)
        return hidden.reshape(-1, hidden.shape[-1])[positions][None]
    layers = model.model.layers
    last = layers[-1]
    layers[-1] = NarrowedLayer(last, positions)
    try:
        return model.model(ids, cache=caches)
    finally:
        layers[-1] = last


@dataclass
class BatchArrays:
    """A :class:`Batch` on the device."""

    prefix: mx.array
    ids: mx.array
    positions: mx.array
    targets: mx.array
    weights: mx.array

    @classmethod
    def of(cls, batch: Batch) -> BatchArrays:
        """Put a batch on the device."""
        return cls(*map(mx.array, (batch.prefix, batch.ids, batch.positions, batch.targets, batch.weights)))

    def arrays(self) -> tuple[mx.array, ...]:
        """The fields in order."""
        return self.prefix, self.ids, self.positions, self.targets, self.weights


Head = Callable[[mx.array], mx.array]


def _chunk(head: Head, hidden: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """(weighted sum, plain sum, gradient of the weighted sum by ``hidden``), each exponential computed once."""
    logits, columns, rows = head(hidden).astype(mx.float32), targets[:, None], weights[:, None]
    highest = logits.max(axis=-1, keepdims=True)
    powers = mx.exp(logits - highest)
    total = powers.sum(axis=-1, keepdims=True)
    losses = (mx.log(total) + highest - mx.take_along_axis(logits, columns, axis=-1))[:, 0]
    # Softmax minus one at the target, times the weight.
    shares = powers * (rows / total)
    at_target = mx.take_along_axis(shares, columns, axis=-1) - rows
    by_logits = mx.put_along_axis(shares, columns, at_target, axis=-1)
    gradient = mx.vjp(head, [hidden], [by_logits.astype(hidden.dtype)])[1][0]
    return (losses * weights).sum(), (losses * (weights > 0)).sum(), gradient


def head_sums(
    head: Head, hidden: mx.array, targets: mx.array, weights: mx.array, rows: int, in_turn: bool
) -> tuple[mx.array, mx.array]:
    """(weighted, plain) sums of the cross-entropy of a frozen head, ``rows`` positions at a time.

    A chunk's gradient is taken while its logits are there, so that none are kept or computed again.

    Args:
        in_turn: let a chunk wait for the gradient of the one before.
    """

    @mx.custom_function
    def sums(hidden: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        weighted = plain = mx.array(0.0)
        gradients: list[mx.array] = []
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            piece = mx.depends(hidden[part], gradients[-1]) if in_turn and gradients else hidden[part]
            w, p, gradient = _chunk(head, piece, targets[part], weights[part])
            weighted, plain = weighted + w, plain + p
            gradients.append(gradient)
        return weighted, plain, mx.concatenate(gradients)

    @sums.vjp
    def _(primals: tuple, cotangents: tuple, outputs: tuple) -> tuple[mx.array, mx.array, mx.array]:
        hidden, targets, weights = primals
        return (cotangents[0] * outputs[2]).astype(hidden.dtype), mx.zeros_like(targets), mx.zeros_like(weights)

    both: Any = sums(hidden, targets, weights)
    return both[0], both[1]


def loss_sums(model: nn.Module, path: LossPath, batch: BatchArrays) -> tuple[mx.array, mx.array]:
    """(weighted, plain) sums of the cross-entropy over a batch's supervised tokens, in float32."""
    if path.plain:
        return plain_loss_sums(model, batch)
    if batch.prefix.size and path.share_prefix:
        caches = [PrefixCache() for _ in model.layers]
        model.model(batch.prefix[None], cache=caches)
        spoken = _hidden(model, batch.ids, batch.positions, caches, path.narrow)[0]
    else:
        row = batch.positions // batch.ids.shape[1]
        positions = batch.positions + (row + 1) * batch.prefix.size
        spoken = _hidden(model, _with_prefix(batch), positions, None, path.narrow)[0]
    module, head = head_of(model)
    rows = max(LEAST_POSITIONS, LOGITS_AT_ONCE[mx.default_device().type] // module.weight.shape[0])
    return head_sums(head, spoken, batch.targets, batch.weights, rows, model.training)


def _with_prefix(batch: BatchArrays) -> mx.array:
    rows = batch.ids.shape[0]
    return mx.concatenate([mx.broadcast_to(batch.prefix[None], (rows, batch.prefix.size)), batch.ids], axis=1)


def plain_loss_sums(model: nn.Module, batch: BatchArrays) -> tuple[mx.array, mx.array]:
    """The same sums from every position's logits: what any model allows, and what the fast path must equal."""
    logits = model(_with_prefix(batch))[:, batch.prefix.size :]
    spoken = logits.reshape(-1, logits.shape[-1])[batch.positions].astype(mx.float32)
    losses = nn.losses.cross_entropy(spoken, batch.targets)
    return (losses * batch.weights).sum(), (losses * (batch.weights > 0)).sum()

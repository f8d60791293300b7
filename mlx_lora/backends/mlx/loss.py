"""Cross-entropy loss of a batch on MLX: logits at supervised positions only, a common prefix computed once; exact.

The optimizations that a model allows are found by a probe at load: a few tokens go through both computations, which
must agree. Where they do not, the plain computation is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...data.collate import Batch
from ..loss_plan import LossPath, agrees
from .prefix import broadcast, caches_after, windows
from .trunk import UNFIT, hidden_states, logits_from, trunk_candidates

# Logits held at once, in elements: 64 MB in float32 on a GPU, the size of a CPU's caches, for any vocabulary.
LOGITS_AT_ONCE = {mx.gpu: 2**24, mx.cpu: 2**20}
# Fewer positions per chunk make slow products.
LEAST_POSITIONS = 16
# Tokens of a probe row at load, and those of its prefix that all rows share.
PROBE, PREFIX = 12, 5


@contextmanager
def narrowed(layer: nn.Module, positions: mx.array) -> Iterator[None]:
    """Restrict the MLP of a model's last layer to the positions that predict a supervised token.

    Args:
        layer: a pre-norm layer, as in Llama, Qwen and Mistral.
        positions: int [positions], flat indices into [batch, length].
    """

    def call(self: nn.Module, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        h = x + self.self_attn(self.input_layernorm(x), mask, cache)
        h = h.reshape(-1, h.shape[-1])[positions][None]
        return h + self.mlp(self.post_attention_layernorm(h))

    plain = type(layer)
    layer.__class__ = type(plain.__name__, (plain,), {"__call__": call})
    try:
        yield
    finally:
        layer.__class__ = plain


def find_path(model: nn.Module) -> LossPath:
    """Find the loss computation that the model allows, by a probe of a few tokens."""
    rows = [[*range(1, PREFIX + 1), *range(start, start + PROBE - PREFIX)] for start in (6, 13)]
    tokens = mx.array(rows)
    expected = model(tokens)
    candidates = trunk_candidates(model, tokens, expected)
    trunk = next((path for path in candidates if _same_logits(model, path, tokens, expected)), "")
    path = LossPath(plain=not trunk, trunk=trunk, vocabulary=expected.shape[-1])
    path = replace(path, share_prefix=_same_after_prefix(model, path, tokens, PREFIX, expected))
    positions, narrow = mx.array([3, 20, 8]), replace(path, narrow=True)
    chosen = expected.reshape(-1, path.vocabulary)[positions]
    narrows = bool(path.trunk) and _agree(
        lambda: logits_from(model, path.trunk, _hidden(model, narrow, tokens, positions, None)), chosen
    )
    return narrow if narrows else path


def check_windows(model: nn.Module, path: LossPath, longest: int) -> LossPath:
    """Return the path without the shared prefix where rows longer than a cache's window do not agree.

    Args:
        longest: tokens of the longest row. Windows beyond it, and those that ``find_path`` has tested, are skipped.
    """
    for window in windows(model) if path.share_prefix else ():
        if not PROBE <= window < longest:
            continue
        tokens = mx.arange(1, window + PROBE + 1)[None] % min(path.vocabulary, 1000)
        expected = model(tokens)
        if not all(_same_after_prefix(model, path, tokens, n, expected) for n in (window // 2, window + PREFIX)):
            return replace(path, share_prefix=False)
    return path


def _same_logits(model: nn.Module, trunk: str, tokens: mx.array, expected: mx.array) -> bool:
    """Return True if the trunk gives the model's logits: all bit for bit, selected ones but for rounding."""
    try:
        hidden = hidden_states(model, trunk, tokens)
        # Identical operations: not one bit may differ.
        if not mx.array_equal(logits_from(model, trunk, hidden), expected).item():
            return False
    except UNFIT:
        return False
    positions = mx.array([9, 1, 22])
    chosen = expected.reshape(-1, expected.shape[-1])[positions]
    return _agree(lambda: logits_from(model, trunk, hidden.reshape(-1, hidden.shape[-1])[positions]), chosen)


def _same_after_prefix(model: nn.Module, path: LossPath, tokens: mx.array, length: int, expected: mx.array) -> bool:
    """Return True if rows after a shared prefix of ``length`` tokens have the logits of whole rows."""

    def after() -> mx.array:
        caches = caches_after(model, path, tokens[0, :length])
        broadcast(caches, tokens.shape[0])
        return model(tokens[:, length:], cache=caches)

    return _agree(after, expected[:, length:])


def _agree(attempt: Callable[[], mx.array], expected: mx.array) -> bool:
    def numbers(logits: mx.array) -> np.ndarray:
        return np.array(logits.astype(mx.float32))

    return agrees(lambda: numbers(attempt()), numbers(expected), expected.dtype == mx.float32)


def _hidden(model: nn.Module, path: LossPath, ids: mx.array, positions: mx.array, caches: list[Any] | None) -> mx.array:
    """Return the trunk's output [positions, hidden] at flat positions of ``ids`` [batch, length]."""
    if not path.narrow:
        hidden = hidden_states(model, path.trunk, ids, caches)
        return hidden.reshape(-1, hidden.shape[-1])[positions]
    with narrowed(model.layers[-1], positions):
        return hidden_states(model, path.trunk, ids, caches)[0]


@dataclass
class BatchArrays:
    """Arrays of a :class:`Batch` on the device."""

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
        """Return the fields in order."""
        return self.prefix, self.ids, self.positions, self.targets, self.weights


Head = Callable[[mx.array], mx.array]


def _chunk(head: Head, hidden: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Return (weighted sum, plain sum, gradient of the weighted sum by ``hidden``), each exponential computed once."""
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
    """Return (weighted, plain) cross-entropy sums of a frozen head, fused, ``rows`` positions per chunk.

    A chunk's gradient is computed while its logits are in memory, so that none are kept or recomputed.

    Args:
        in_turn: make a chunk wait for the gradient of the previous one.
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


def loss_sums(
    model: nn.Module, path: LossPath, batch: BatchArrays, caches: list[Any] | None = None
) -> tuple[mx.array, mx.array]:
    """Return (weighted, plain) cross-entropy sums over a batch's supervised tokens, in float32.

    Args:
        caches: the model's KV caches after the batch's prefix, if it has been computed.
    """
    spoken = _spoken(model, path, batch, caches)
    if path.plain:
        return _sums(spoken, batch)
    head = partial(logits_from, model, path.trunk)
    return head_sums(head, spoken, batch.targets, batch.weights, _rows(path), model.training)


def log_probabilities(model: nn.Module, path: LossPath, batch: BatchArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return (log-probability, is top-1) of the token at each of a batch's positions, padding included."""
    spoken = _spoken(model, path, batch, None)
    logprobs, top = [], []
    for start in range(0, spoken.shape[0], _rows(path)):
        part = slice(start, start + _rows(path))
        logits = spoken[part] if path.plain else logits_from(model, path.trunk, spoken[part])
        logits, targets = logits.astype(mx.float32), batch.targets[part]
        own = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        logprobs.append(np.array(own - mx.logsumexp(logits, axis=-1)))
        top.append(np.array(mx.argmax(logits, axis=-1) == targets))
    return np.concatenate(logprobs), np.concatenate(top)


def _rows(path: LossPath) -> int:
    """Return the number of positions whose logits are computed at once."""
    return max(LEAST_POSITIONS, LOGITS_AT_ONCE[mx.default_device().type] // path.vocabulary)


def _spoken(model: nn.Module, path: LossPath, batch: BatchArrays, caches: list[Any] | None) -> mx.array:
    """Return the trunk's output at a batch's positions, or the logits where the path is ``plain``."""
    ids, positions = batch.ids, batch.positions
    if batch.prefix.size and path.share_prefix:
        caches = caches or caches_after(model, path, batch.prefix)
        broadcast(caches, ids.shape[0])
    else:
        ids, positions = _with_prefix(batch), positions + (positions // ids.shape[1] + 1) * batch.prefix.size
    if path.plain:
        logits = model(ids, cache=caches)
        return logits.reshape(-1, logits.shape[-1])[positions]
    return _hidden(model, path, ids, positions, caches)


def _with_prefix(batch: BatchArrays) -> mx.array:
    rows = batch.ids.shape[0]
    return mx.concatenate([mx.broadcast_to(batch.prefix[None], (rows, batch.prefix.size)), batch.ids], axis=1)


def plain_loss_sums(model: nn.Module, batch: BatchArrays) -> tuple[mx.array, mx.array]:
    """Return the sums of ``loss_sums`` from the logits of every position: the reference, which any model allows."""
    logits = model(_with_prefix(batch))[:, batch.prefix.size :]
    return _sums(logits.reshape(-1, logits.shape[-1])[batch.positions], batch)


def _sums(spoken: mx.array, batch: BatchArrays) -> tuple[mx.array, mx.array]:
    losses = nn.losses.cross_entropy(spoken.astype(mx.float32), batch.targets)
    return (losses * batch.weights).sum(), (losses * (batch.weights > 0)).sum()

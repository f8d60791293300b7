"""BERT's forward pass with mean pooling: on MLX with a GPU, on NumPy without one.

On a CPU, MLX takes ten times as long as NumPy for exp and erf, which is most of the time of so small a model.
There, the tokens of all texts stand behind one another, without padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
# Rows of GELU at a time, so that its passes stay in the cache.
_BLOCK = 64


def embed_on_cpu(weights: Mapping[str, Any], rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the vectors of tokenized texts, [texts, 384], computed by NumPy."""
    import numpy as np

    lengths = np.array([len(row) for row in rows])
    ends = np.cumsum(lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    x = weights["embeddings.word_embeddings.weight"][np.concatenate([np.asarray(row) for row in rows])]
    x = x + weights["embeddings.position_embeddings.weight"][places]
    x += weights["embeddings.token_type_embeddings.weight"][0]
    _norm(weights, "embeddings.LayerNorm", x)
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            _linear(weights, f"{layer}.attention.self.{name}", x).reshape(-1, HEADS, WIDTH // HEADS)
            for name in ("query", "key", "value")
        )
        mixed = np.empty_like(q)
        for begin, end in zip(ends - lengths, ends, strict=True):
            part = slice(begin, end)
            scores = q[part].transpose(1, 0, 2) @ k[part].transpose(1, 2, 0)
            scores *= 1 / math.sqrt(WIDTH // HEADS)
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed[part] = (scores @ v[part].transpose(1, 0, 2)).transpose(1, 0, 2)
        x += _linear(weights, f"{layer}.attention.output.dense", mixed.reshape(-1, WIDTH))
        _norm(weights, f"{layer}.attention.output.LayerNorm", x)
        inner = _linear(weights, f"{layer}.intermediate.dense", x)
        _gelu(inner)
        x += _linear(weights, f"{layer}.output.dense", inner)
        _norm(weights, f"{layer}.output.LayerNorm", x)
    mean = np.add.reduceat(x, ends - lengths, axis=0) / lengths[:, None].astype(np.float32)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _linear(weights: Mapping[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    y = x @ weights[f"{name}.weight"].T
    y += weights[f"{name}.bias"]
    return y


def _norm(weights: Mapping[str, Any], name: str, x: np.ndarray) -> None:
    """Normalise the rows of ``x`` in place."""
    import numpy as np

    x -= x.mean(axis=-1, keepdims=True)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x)[:, None] / x.shape[-1] + EPSILON)
    x *= weights[f"{name}.weight"]
    x += weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> None:
    """Apply GELU in place; erf by formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7."""
    import numpy as np

    factors = [np.float32(f) for f in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]
    for begin in range(0, len(x), _BLOCK):
        block = x[begin : begin + _BLOCK]
        size = np.abs(block)
        size *= np.float32(math.sqrt(0.5))
        t = size * np.float32(0.3275911)
        t += 1
        np.reciprocal(t, out=t)
        tail = t * factors[0]
        for factor in factors[1:]:
            tail += factor
            tail *= t
        np.square(size, out=size)
        np.negative(size, out=size)
        tail *= np.exp(size, out=size)
        # x (1 + erf(x / √2)) / 2 is x - x tail / 2 for positive x, and x tail / 2 for negative ones.
        tail *= block
        tail *= np.float32(0.5)
        np.maximum(block, 0, out=block)
        block -= np.abs(tail, out=tail)


def embed_on_gpu(weights: Mapping[str, Any], rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the vectors of tokenized texts, [texts, 384], computed by MLX on padded rows."""
    import mlx.core as mx
    import numpy as np

    longest = max(map(len, rows))
    padded, mask = np.zeros((len(rows), longest), dtype=np.int32), np.zeros((len(rows), longest), dtype=np.float32)
    for number, row in enumerate(rows):
        padded[number, : len(row)], mask[number, : len(row)] = row, 1
    return np.array(_forward(weights, mx.array(padded), mx.array(mask)))


def _forward(w: Mapping[str, Any], ids: mx.array, mask: mx.array) -> mx.array:
    import mlx.core as mx

    def linear(x: mx.array, name: str) -> mx.array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: mx.array, name: str) -> mx.array:
        return mx.fast.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], EPSILON)

    batch, length = ids.shape
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:length]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    hidden = mx.where(mask[:, None, None, :] > 0, 0.0, -mx.inf)
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{name}").reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(WIDTH // HEADS), mask=hidden)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
        x = norm(linear(mixed, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + mx.erf(inner / math.sqrt(2))) / 2
        x = norm(linear(inner, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    mean = (x * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return mean / mx.linalg.norm(mean, axis=1, keepdims=True)

"""A model's weights with its adapter in them, made a few rows at a time.

LoRA: W + scale · (A B)ᵀ. DoRA: m · (W + scale · (A B)ᵀ) / ‖row‖. Full: the trained weights in place of the base's.
Quantized weights are dequantized first. All sums are made in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np

from .tensors import DTYPES, Stored, from_float32, to_float32


@dataclass
class Changed:
    """How much the adapter moved the weights it is on, and how much of that rounding to the base's type undoes.

    Attributes:
        weights, change, lost: sums of squares of the weights, of what is added, and of what rounding changes.
        requantized: the same of what quantizing again, as the base was, would change.
    """

    weights: float = 0.0
    change: float = 0.0
    lost: float = 0.0
    requantized: float = 0.0

    @property
    def relative(self) -> float:
        """‖ΔW‖ / ‖W‖."""
        return sqrt(self.change / self.weights) if self.weights else 0.0

    @property
    def rounding(self) -> float:
        """‖rounded - exact‖ / ‖ΔW‖."""
        return sqrt(self.lost / self.change) if self.change else 0.0

    @property
    def requantized_relative(self) -> float:
        """‖quantized again - exact‖ / ‖W‖."""
        return sqrt(self.requantized / self.weights) if self.weights else 0.0


@dataclass
class Weight:
    """One tensor of the model with its adapter.

    Attributes:
        dtype: the base's type, F32, F16 or BF16; another where it is no weight (then it is only copied).
        parts: the base's tensor: "weight", and of a quantized one "scales" and "biases".
        adapter: float32 "lora_a" [in, rank], "lora_b" [rank, out] and DoRA's "m" [out], or nothing.
        change: where the weight has another form in mlx-lm, what is added to it, an MLX array of its own shape that is
            computed when it is used.
        quantized: how mlx dequantizes it, or ``None``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: dict[str, Stored]
    scale: float = 0.0
    adapter: dict[str, np.ndarray] = field(default_factory=dict)
    change: Any = None
    quantized: dict[str, Any] | None = None

    @property
    def stored(self) -> Stored:
        return self.parts["weight"]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def as_stored(self) -> bool:
        """The base's own numbers are what is wanted."""
        return not self.adapter and self.change is None and self.quantized is None

    def pieces(self) -> Iterator[tuple[int, int]]:
        return self.stored.pieces()

    def release(self) -> None:
        """Free what was computed for this weight: its rows have been used."""
        self.change = None

    def float32(self, first: int, last: int, changed: Changed | None = None) -> np.ndarray:
        """Rows of the merged tensor, float32 [rows, ...]; what the adapter does is added to ``changed``."""
        base = self._base(first, last)
        if self.change is not None:
            delta = np.array(self.change[first:last]) if self.shape else np.array(self.change)
        elif self.adapter:
            left = self.adapter["lora_b"].T[first:last] * np.float32(self.scale)
            delta = small_product(left, self.adapter["lora_a"].T)
        else:
            return base
        merged = base + delta
        if "m" in self.adapter:
            merged *= (self.adapter["m"][first:last] / np.linalg.norm(merged, axis=1))[:, None]
            delta = merged - base
        if changed is not None:
            changed.weights += float(np.vdot(base, base))
            changed.change += float(np.vdot(delta, delta))
            error = to_float32(from_float32(merged, self.dtype), self.dtype) - merged
            changed.lost += float(np.vdot(error, error))
            if self.quantized is not None:
                error = _requantized(merged, self.quantized) - merged
                changed.requantized += float(np.vdot(error, error))
        return merged

    def _base(self, first: int, last: int) -> np.ndarray:
        raw = self.stored.rows(first, last)
        if self.quantized is None:
            return to_float32(raw, self.stored.dtype)
        # The only place that needs MLX: its packings are many.
        import mlx.core as mx

        def part(name: str) -> Any:
            stored = self.parts.get(name)
            if stored is None:
                return None
            values = mx.array(stored.rows(first, last))
            return values.view(mx.bfloat16) if stored.dtype == "BF16" else values

        whole = mx.dequantize(mx.array(raw), part("scales"), part("biases"), **self.quantized)
        return np.array(whole.astype(mx.float32))


# Multiplications up to which OpenBLAS uses one thread: its others would spin longer than they work.
ONE_THREAD = 1 << 18


def small_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right, float32, for a right side with few rows: made on this thread alone."""
    out = np.empty((len(left), right.shape[1]), dtype=np.float32)
    step = max(1, ONE_THREAD // max(1, right.size))
    for first in range(0, len(left), step):
        np.matmul(left[first : first + step], right, out=out[first : first + step])
    return out


# Rows of each weight that tell how much an adapter changes it.
SAMPLE = 64


def sampled_change(weights: Iterable[Weight]) -> Changed:
    """What the adapter does to the first rows of each weight it is on."""
    changed = Changed()
    for weight in weights:
        if weight.adapter or weight.change is not None:
            weight.float32(0, min(SAMPLE, weight.shape[0]), changed)
    return changed


def _requantized(values: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """What would be left of float32 values, quantized as the base was."""
    import mlx.core as mx

    return np.array(mx.dequantize(*mx.quantize(mx.array(values), **settings), **settings).astype(mx.float32))

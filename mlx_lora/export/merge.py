"""Adapter merging: the weights of a model with its adapter, computed a few rows at a time.

LoRA: W + scale · (A B)ᵀ. DoRA: m · (W + scale · (A B)ᵀ) / ‖row‖. Full: the trained weights in place of the base's.
Quantized weights are dequantized first. All sums are computed in float32.
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
    """Size of the adapter's weight change (ΔW), and of the rounding error in the base's dtype.

    Attributes:
        weights, change, lost: sums of squares of the weights, of ΔW, and of the rounding error.
        requantized: sum of squares of the error if the weights were quantized again as the base was.
    """

    weights: float = 0.0
    change: float = 0.0
    lost: float = 0.0
    requantized: float = 0.0

    @property
    def relative(self) -> float:
        """Relative change ‖ΔW‖ / ‖W‖."""
        return sqrt(self.change / self.weights) if self.weights else 0.0

    @property
    def rounding(self) -> float:
        """Rounding error ‖rounded - exact‖ / ‖ΔW‖."""
        return sqrt(self.lost / self.change) if self.change else 0.0

    @property
    def requantized_relative(self) -> float:
        """Requantization error ‖quantized again - exact‖ / ‖W‖."""
        return sqrt(self.requantized / self.weights) if self.weights else 0.0


@dataclass
class Weight:
    """Tensor of the model with its adapter.

    Attributes:
        dtype: the base's type, F32, F16 or BF16; another if it is not a weight (then it is only copied).
        parts: the base's tensor: "weight", and of a quantized one "scales" and "biases".
        adapter: float32 "lora_a" [in, rank], "lora_b" [rank, out] and DoRA's "m" [out], or empty.
        change: ΔW if the weight has another form in mlx-lm, a lazy MLX array of the weight's shape.
        quantized: arguments of ``mx.dequantize``, or ``None``.
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
        """Stored tensor of the base (packed if it is quantized)."""
        return self.parts["weight"]

    @property
    def nbytes(self) -> int:
        """Size of the merged tensor in bytes, in the base's dtype."""
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def as_stored(self) -> bool:
        """True if the merged tensor is equal to the base's stored one."""
        return not self.adapter and self.change is None and self.quantized is None

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of pieces of rows."""
        return self.stored.pieces()

    def release(self) -> None:
        """Free the computed change of this weight after its rows have been used."""
        self.change = None

    def float32(self, first: int, last: int, changed: Changed | None = None) -> np.ndarray:
        """Return rows of the merged tensor, float32 [rows, ...]; the adapter's change is added to ``changed``."""
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
        # The only use of MLX here: it has many packed formats.
        import mlx.core as mx

        def part(name: str) -> Any:
            stored = self.parts.get(name)
            if stored is None:
                return None
            values = mx.array(stored.rows(first, last))
            return values.view(mx.bfloat16) if stored.dtype == "BF16" else values

        whole = mx.dequantize(mx.array(raw), part("scales"), part("biases"), **self.quantized)
        return np.array(whole.astype(mx.float32))


# Multiplications up to which OpenBLAS uses one thread: the others would spin longer than they compute.
ONE_THREAD = 1 << 18


def small_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute left @ right, float32, for a right side with few rows, on this thread alone."""
    out = np.empty((len(left), right.shape[1]), dtype=np.float32)
    step = max(1, ONE_THREAD // max(1, right.size))
    for first in range(0, len(left), step):
        np.matmul(left[first : first + step], right, out=out[first : first + step])
    return out


# Rows of each weight from which the adapter's change is estimated.
SAMPLE = 64


def sampled_change(weights: Iterable[Weight]) -> Changed:
    """Measure the adapter's change on the first rows of each adapted weight."""
    changed = Changed()
    for weight in weights:
        if weight.adapter or weight.change is not None:
            weight.float32(0, min(SAMPLE, weight.shape[0]), changed)
    return changed


def _requantized(values: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Quantize float32 values as the base was, and dequantize them."""
    import mlx.core as mx

    return np.array(mx.dequantize(*mx.quantize(mx.array(values), **settings), **settings).astype(mx.float32))

"""A model's weights with its adapter in them, made a few rows at a time.

LoRA: W + scale · (A B)ᵀ. DoRA: m · (W + scale · (A B)ᵀ) / ‖row‖. Full: the trained weights in place of the base's.
Quantized weights are dequantized first. All sums are made in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from ..backends.adapters import ADAPTER_FILE
from ..errors import UserError, first_line
from .source import Source
from .tensors import Stored, from_float32, read_header, stored_tensors, to_float32


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
        quantized: how mlx dequantizes it, or ``None``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: dict[str, Stored]
    scale: float = 0.0
    adapter: dict[str, np.ndarray] = field(default_factory=dict)
    quantized: dict[str, Any] | None = None

    @property
    def stored(self) -> Stored:
        return self.parts["weight"]

    @property
    def as_stored(self) -> bool:
        """The base's own numbers are what is wanted."""
        return not self.adapter and self.quantized is None

    def pieces(self) -> Iterator[tuple[int, int]]:
        return self.stored.pieces()

    def float32(self, first: int, last: int, changed: Changed | None = None) -> np.ndarray:
        """Rows of the merged tensor, float32 [rows, ...]; what the adapter does is added to ``changed``."""
        base = self._base(first, last)
        if not self.adapter:
            return base
        delta = small_product(self.adapter["lora_b"].T[first:last] * np.float32(self.scale), self.adapter["lora_a"].T)
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
        if weight.adapter:
            weight.float32(0, min(SAMPLE, weight.shape[0]), changed)
    return changed


def _requantized(values: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """What would be left of float32 values, quantized as the base was."""
    import mlx.core as mx

    return np.array(mx.dequantize(*mx.quantize(mx.array(values), **settings), **settings).astype(mx.float32))


def read_weights(source: Source) -> dict[str, Weight]:
    """Every tensor of the model, with what the adapter does to it, by Hugging Face's name.

    Raises:
        UserError: the adapter does not fit its base, or the base is stored in a way that cannot be read.
    """
    stored = stored_tensors(source.model.path)
    weights = {name: _weight(name, stored, source) for name in stored if not _is_part(name, stored)}
    if source.adapter is not None:
        _put_adapter(source, weights)
    return weights


def _is_part(name: str, stored: dict[str, Stored]) -> bool:
    """Whether a tensor belongs to a quantized weight."""
    stem, _, kind = name.rpartition(".")
    return kind in ("scales", "biases") and f"{stem}.weight" in stored


def _weight(name: str, stored: dict[str, Stored], source: Source) -> Weight:
    tensor = stored[name]
    module = name.removesuffix(".weight")
    if f"{module}.scales" not in stored:
        if "quantization_config" in source.config and "quantization" not in source.config:
            method = source.config["quantization_config"].get("quant_method")
            raise UserError(
                f"{source.model.name}: its weights are quantized by {method}, which cannot be read here; "
                "use the model in bfloat16, or as mlx_lm.convert quantizes it"
            )
        return Weight(name, tensor.shape, tensor.dtype, {"weight": tensor})
    settings = _quantization(source, module)
    columns = tensor.shape[-1] * 32 // settings["bits"]
    parts = {key: stored[f"{module}.{key}"] for key in ("weight", "scales", "biases") if f"{module}.{key}" in stored}
    dtype = parts["scales"].dtype if parts["scales"].dtype in ("F32", "F16", "BF16") else "BF16"
    return Weight(name, (*tensor.shape[:-1], columns), dtype, parts, quantized=settings)


def _quantization(source: Source, module: str) -> dict[str, Any]:
    whole = source.config.get("quantization") or source.config.get("quantization_config") or {}
    own = whole.get(module)
    settings = own if isinstance(own, dict) else whole
    try:
        return {
            "group_size": int(settings["group_size"]),
            "bits": int(settings["bits"]),
            "mode": settings.get("mode", "affine"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source.model.path / 'config.json'}: {module} is quantized and the config does not say how "
            f"({first_line(error)}); download the model again"
        ) from error


def _put_adapter(source: Source, weights: dict[str, Weight]) -> None:
    assert source.adapter is not None
    file = source.adapter / ADAPTER_FILE
    tensors = read_header(file)
    if source.adapter_config.get("fine_tune_type") == "full":
        for name, tensor in tensors.items():
            weight = weights.get(name)
            if weight is None or weight.shape != tensor.shape:
                raise UserError(f"{file}: {name} has no place in {source.model.name}; is it another model's?")
            weight.parts = {"weight": tensor}
        return
    scale = float(source.adapter_config["lora_parameters"]["scale"])
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        weight = weights.get(f"{module}.weight")
        if weight is None or part not in ("lora_a", "lora_b", "m") or len(weight.shape) != 2:
            raise UserError(
                f"{file}: {name} has no weight of its own in {source.model.name}'s files; "
                "the adapter is another model's, or is on experts, which cannot be merged here"
            )
        weight.adapter[part], weight.scale = to_float32(tensor.read(), tensor.dtype), scale
    for weight in weights.values():
        if weight.adapter:
            _check_shapes(file, weight)


def _check_shapes(file: Any, weight: Weight) -> None:
    rows, columns = weight.shape
    a, b, m = (weight.adapter.get(part) for part in ("lora_a", "lora_b", "m"))
    fits = a is not None and b is not None and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]
    if not fits or (a.shape[0], b.shape[1]) != (columns, rows) or (m is not None and m.shape != (rows,)):  # type: ignore[union-attr]
        raise UserError(f"{file}: the matrices on {weight.name} do not fit its shape {rows} × {columns}")
    if not all(np.isfinite(part).all() for part in weight.adapter.values()):
        raise UserError(f"{file}: the adapter's numbers on {weight.name} are not finite; train it again")

"""Logits of a GGUF file's own quantized weights, computed in MLX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .architectures import heads_of, unpermute_rows
from .reader import WeightErrors
from .writer import GGUFPlan


def own_logits(
    plan: GGUFPlan, errors: WeightErrors, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Compute the logits of a quantized file's own weights in MLX, which llama.cpp has to reproduce.

    Args:
        errors: reads the file's tensors, and measures their quantization error on the way.
    """
    from mlx_lm.utils import dequantize_model

    from ...backends.mlx.layer_streaming import load_lazily, streamed_logits

    rows = {
        weight.name: GGUFRows(
            name,
            errors,
            weight.shape,
            heads_of(plan.architecture, plan.source.config, weight.name),
        )
        for name, _, weight in plan.tensors
        if weight is not None
    }
    # Only the structure of a quantized base is dequantized: all weights come from the file.
    return streamed_logits(
        lambda: dequantize_model(load_lazily(plan.source.model)), prompts, positions, lambda name: rows.get(name)
    )


@dataclass
class GGUFRows:
    """Tensor of a GGUF file as a weight in MLX, dequantized on use.

    Attributes:
        heads: number of heads whose rows are permuted back.
    """

    name: str
    errors: WeightErrors
    shape: tuple[int, ...]
    heads: int | None

    def take(self, rows: np.ndarray) -> Any:
        """Return some rows, dequantized."""
        import mlx.core as mx

        return mx.array(self.errors.quantized.tensors[self.name].rows(rows).reshape(len(rows), -1))

    def pieces(self) -> Iterator[Any]:
        """Yield the tensor in pieces of rows, dequantized."""
        import mlx.core as mx

        return (mx.array(piece) for piece in self.errors.pieces(self.name))

    def whole(self) -> Any:
        """Return the whole tensor, dequantized, in Hugging Face's row order."""
        import mlx.core as mx

        values = np.concatenate(list(self.errors.pieces(self.name))).reshape(self.shape)
        return mx.array(values if self.heads is None else unpermute_rows(values, self.heads))

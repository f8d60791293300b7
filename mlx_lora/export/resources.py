"""Resource estimates: memory and disk of each step of an export, computed from the model's shapes in advance.

Memory is the allocation of the export's processes. Pages of files that llama.cpp maps are not counted: the system
drops them under memory pressure. The constants were measured; see ``benchmarks/export``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..memory import memory_sizes
from .tensors import DTYPES, stored_tensors

if TYPE_CHECKING:
    from .merge import Weight
    from .reference import Questions
    from .source import Source

# Python with MLX, transformers and a tokenizer; each token of the vocabulary as Python objects; a llama.cpp process.
PROCESS, TOKEN, LLAMA_CPP = 160 << 20, 450, 75 << 20
# MLX's buffer cache, and pieces of the embedding matrix.
STREAMING = 64 << 20
CONVERTING = 32 << 20
# Upstream's converter: Python with torch and transformers, in addition to one tensor in float32.
TORCH = 700 << 20


@dataclass(frozen=True)
class Step:
    """Step of an export, with its peak memory and disk use in bytes."""

    name: str
    memory: int
    disk: int

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"step", "memory_bytes", "disk_bytes"}``."""
        return {"step": self.name, "memory_bytes": self.memory, "disk_bytes": self.disk}


def fuse_steps(weights: list[Weight], total: int, questions: Questions) -> list[Step]:
    """Return the steps of ``fuse``; ``total`` is the size of the directory in bytes."""
    rows = max((w.shape[0] for w in weights if len(w.shape) > 1), default=0)
    process = PROCESS + TOKEN * rows
    return [
        Step("merge", process + CONVERTING + 8 * _remade(weights), total),
        Step("compare in MLX", process + streaming_bytes(weights, questions, rows), total),
    ]


def upstream_steps(weights: list[Weight], stored: int, full: int, quantized: int | None) -> list[Step]:
    """Return the steps of upstream's converter after ``fuse``.

    Args:
        stored: size of the fused directory in bytes.
        full: size in bytes of the file that the converter writes.
        quantized: size in bytes of the file that llama.cpp quantizes from it, ``None`` if there is none.
    """
    rows = max((w.shape[0] for w in weights if len(w.shape) > 1), default=0)
    largest = max(map(numbers_of, weights), default=0)
    process = PROCESS + TOKEN * rows
    steps = [Step("convert upstream", process + TORCH + TOKEN * rows + 4 * largest, stored + full)]
    if quantized is not None:
        steps.append(Step("quantize", process + LLAMA_CPP + 8 * largest, full + quantized))
    return steps


def check_memory(what: str, steps: list[Step]) -> None:
    """Raise UserError if this machine, or container, does not have the memory that a step needs."""
    total, available = memory_sizes()
    largest = max(steps, key=lambda step: step.memory)
    if largest.memory > (total if available is None else available):
        has = f"{total / 1e9:.1f} GB" + ("" if available is None else f", {available / 1e9:.1f} GB of it available")
        raise UserError(
            f"{what}: the step '{largest.name}' needs {largest.memory / 1e9:.1f} GB of memory and this machine has "
            f"{has}; close other programs, or use another machine"
        )


def model_fits(source: Source) -> bool:
    """Return True if the whole model as stored takes no more than half of the available memory."""
    total, available = memory_sizes()
    stored = sum(file.stat().st_size for file in source.model.path.glob("model*.safetensors"))
    return stored < (total if available is None else available) / 2


def fits_float32(source: Source) -> bool:
    """Return True if the base in float32 takes no more than half of the memory."""
    return 4 * sum(tensor.size for tensor in stored_tensors(source.model.path).values()) < memory_sizes()[0] / 2


def _remade(weights: list[Weight]) -> int:
    """Return the parameters of the largest block whose weights have another form in mlx-lm (changed together)."""
    blocks: Counter[str] = Counter()
    for weight in weights:
        if weight.change is not None:
            blocks[_block(weight.name)] += numbers_of(weight)
    return max(blocks.values(), default=0)


def _block(name: str) -> str:
    stem, _, rest = name.partition(".layers.")
    return f"{stem}.{rest.partition('.')[0]}"


def numbers_of(weight: Weight) -> int:
    """Return how many numbers a weight holds."""
    return prod(weight.shape)


def _stored(weight: Weight) -> int:
    """Return the bytes of a weight with its adapter in memory, as stored."""
    parts = sum(part.size * np.dtype(DTYPES[part.dtype]).itemsize for part in weight.parts.values())
    return parts + sum(part.nbytes for part in weight.adapter.values())


def streaming_bytes(weights: list[Weight], questions: Questions, rows: int) -> int:
    """Return the bytes of MLX with one block in float32, weights outside the blocks as stored, activations, logits."""
    blocks: dict[str, int] = {}
    outside = widest = 0
    for weight in weights:
        if ".layers." in weight.name:
            key = _block(weight.name)
            blocks[key] = blocks.get(key, 0) + _stored(weight) + 4 * numbers_of(weight)
            widest = max(widest, *weight.shape)
        else:
            outside += _stored(weight)
    lengths = [*map(len, questions.prompts), len(questions.greedy_prompt) + 24]
    tokens = len(lengths) * max(lengths)
    positions = sum(map(len, questions.positions)) + 24
    return outside + max(blocks.values(), default=0) + STREAMING + 4 * (6 * tokens * widest + 4 * positions * rows)

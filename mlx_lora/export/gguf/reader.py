"""GGUF reader and content checks: tensors, shapes, types and vocabulary of a written file; quantization errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..tensors import PIECE
from ..verification import ExportCheck, at_most, equal
from .header import read_gguf_header
from .tokenizer import Vocabulary
from .writer import GGUFPlan


@dataclass
class Tensor:
    """Tensor of a GGUF file: type in lower case, shape in numpy's order, and memory-mapped bytes [rows, ...]."""

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    def pieces(self) -> Iterator[np.ndarray]:
        """Return the dequantized values, float32 [rows, columns], some rows at a time."""
        step = max(1, PIECE // self.shape[-1])
        return (self.rows(slice(first, first + step)) for first in range(0, len(self.data), step))

    def rows(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Return some rows dequantized, float32 [rows, columns]."""
        from gguf import GGMLQuantizationType, dequantize

        rows = np.asarray(self.data[chosen])
        plain = {"f32": np.float32, "f16": np.float16}.get(self.kind)
        if plain is not None:
            return rows.view(plain).astype(np.float32)
        # The caller detects non-finite numbers of a broken file when it compares.
        with np.errstate(all="ignore"):
            return dequantize(rows, GGMLQuantizationType[self.kind.upper()])


@dataclass
class Opened:
    """Opened GGUF file.

    Attributes:
        tensors: by GGUF's name, in file order.
        tokens, template: vocabulary and chat template.
        bits: mean bits per weight.
    """

    tensors: dict[str, Tensor]
    tokens: list[str]
    template: str | None
    bits: float

    def kinds(self) -> str:
        """Return the number of tensors of each type, in words."""
        counts = Counter(tensor.kind for tensor in self.tensors.values())
        return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def open_gguf(file: Path) -> Opened:
    """Read a GGUF file's header and memory-map its tensors.

    Raises:
        ValueError: it is not a GGUF file, or it is truncated.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    facts, entries = read_gguf_header(file)
    tensors = {}
    for name, entry in entries.items():
        number = GGMLQuantizationType(entry.kind)
        block, size = GGML_QUANT_SIZES[number]
        row = entry.shape[-1] // block * size
        shape = (prod(entry.shape[:-1]), row)
        # Memory-mapped: only accessed pages are read.
        data = np.memmap(file, dtype=np.uint8, mode="r", offset=entry.start, shape=shape)
        tensors[name] = Tensor(number.name.lower(), entry.shape, data)
    weights = sum(prod(tensor.shape) for tensor in tensors.values())
    bits = sum(tensor.data.nbytes for tensor in tensors.values()) * 8 / max(1, weights)
    return Opened(tensors, facts.get("tokenizer.ggml.tokens", []), facts.get("tokenizer.chat_template"), bits)


def content_checks(opened: Opened, plan: GGUFPlan, vocabulary: Vocabulary) -> list[ExportCheck]:
    """Check tensors, shapes and vocabulary against the plan; types as well unless the file was quantized afterwards."""
    shapes = {name: plan.shape(weight) for name, _, weight in plan.tensors}
    found = {name: tensor.shape for name, tensor in opened.tensors.items()}
    right = sum(found.get(name) == shape for name, shape in shapes.items())
    tokens, _ = vocabulary.padded()
    same = sum(a == b for a, b in zip(opened.tokens, tokens, strict=False))
    return [
        equal("tensors", len(found), len(shapes)),
        equal("tensors of the right name and shape", right, len(shapes)),
        equal("vocabulary", len(opened.tokens), plan.rows),
        equal("tokens in their places", same, plan.rows),
        equal("chat template", _length(opened.template), _length(vocabulary.chat_template))
        if opened.template == vocabulary.chat_template
        else ExportCheck("chat template", "another", "the tokenizer's", False),
    ]


def _length(template: str | None) -> str:
    return "none" if template is None else f"{len(template):,} characters"


def type_checks(opened: Opened, plan: GGUFPlan) -> list[ExportCheck]:
    """Check the tensor types, and so the size, of a file that was written here."""
    expected = {name: kind for name, kind, _ in plan.tensors}
    found = {name: tensor.kind for name, tensor in opened.tensors.items()}
    right = sum(found.get(name) == kind for name, kind in expected.items())
    size = sum(tensor.data.nbytes for tensor in opened.tensors.values())
    return [
        ExportCheck(
            "types of tensors", opened.kinds(), f"{len(expected)} as planned", right == len(expected) == len(found)
        ),
        equal("bytes of weights", size, plan.weight_bytes),
    ]


class WeightErrors:
    """Quantization error of each tensor of a quantized file; each tensor is read and dequantized once.

    Attributes:
        full: the file before quantization, kept until all tensors were read.
    """

    def __init__(self, full: Opened, quantized: Opened) -> None:
        self.full, self.quantized = full, quantized
        self._found: dict[str, float] = {}

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Yield the values of a tensor, as :meth:`Tensor.pieces`, and record its error on the way."""
        tensor, original = self.quantized.tensors[name], self.full.tensors.get(name)
        if original is None or original.shape != tensor.shape:
            self._found[name] = float("inf")
            yield from tensor.pieces()
            return
        squares = difference = 0.0
        for ours, theirs in zip(original.pieces(), tensor.pieces(), strict=True):
            squares += float(np.vdot(ours, ours))
            gap = (theirs - ours).ravel()
            difference += float(np.vdot(gap, gap))
            yield theirs
        error = (difference / squares) ** 0.5 if squares else 0.0 if not difference else float("inf")
        self._found[name] = error if np.isfinite(error) else float("inf")

    def all(self) -> dict[str, float]:
        """Return the relative error ‖difference‖ / ‖tensor‖ of every tensor, infinite if not finite."""
        for name in self.quantized.tensors:
            if name not in self._found:
                for _ in self.pieces(name):
                    pass
        return self._found


def worst_error(errors: dict[str, float], quantized: Opened, expected: dict[str, float]) -> ExportCheck:
    """Check the tensor whose error is the largest relative to its type's (``expected``)."""
    unknown = max(expected.values())

    def allowed(name: str) -> float:
        return expected.get(quantized.tensors[name].kind, unknown)

    name = max(errors, key=lambda name: errors[name] / allowed(name))
    kind = quantized.tensors[name].kind
    return at_most(f"error of weights, at worst in {name} ({kind})", errors[name], allowed(name))

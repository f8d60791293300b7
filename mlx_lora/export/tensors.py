"""Safetensors read a few rows at a time, and numbers in their formats, in numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..models.parameters import read_header_bytes
from ..models.resolve import check_weights

# safetensors' names. bfloat16 is kept as its bits, since numpy has no such type.
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32, "U8": np.uint8, "I64": np.int64}
# These are only copied, the 8-bit floats as their bits.
DTYPES |= {"BOOL": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "F64": np.float64}
DTYPES |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), np.uint8)
# Rows are handled in pieces of about so many numbers: small enough for the processor's cache.
PIECE = 1 << 19


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file; ``start`` is its first byte there."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def row(self) -> int:
        """Numbers in one row, along the first axis."""
        return prod(self.shape[1:])

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows ``first`` to ``last`` (excluded) as they are stored; a scalar has one row."""
        kind = np.dtype(DTYPES[self.dtype])
        shape = (last - first, *self.shape[1:]) if self.shape else ()
        offset = self.start + first * self.row * kind.itemsize
        return np.fromfile(self.file, dtype=kind, count=prod(shape), offset=offset).reshape(shape)

    def read(self) -> np.ndarray:
        return self.rows(0, self.shape[0] if self.shape else 1)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first, last) of pieces of rows."""
        count = self.shape[0] if self.shape else 1
        step = max(1, PIECE // max(1, self.row))
        return ((first, min(first + step, count)) for first in range(0, count, step))


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """Every tensor of a model directory, by name, in the order of its files.

    Raises:
        UserError: a file is missing or broken.
    """
    check_weights(directory)
    found: dict[str, Stored] = {}
    for file in sorted(directory.glob("model*.safetensors")):
        found.update(read_header(file))
    return found


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file (its format: 8 bytes of length, JSON, data), in the order of their data."""
    content = read_header_bytes(file)
    header, length = json.loads(content), len(content)
    header.pop("__metadata__", None)
    tensors = {
        name: Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise UserError(
                f"{file}: {name} is stored as {tensor.dtype}, which cannot be read here; "
                "use the model in bfloat16, or as mlx_lm.convert quantizes it"
            )
    return dict(sorted(tensors.items(), key=lambda item: item[1].start))


def to_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers of a stored array; ``dtype`` is F32, F16 or BF16."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to the nearest number of ``dtype`` (F32, F16, BF16), ties to even; what is too large becomes infinite."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    bits = values.view(np.uint32)
    # A NaN stays one: only its upper half is kept, with a bit set.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def format_of(directory: Path) -> str:
    """Whose names and shapes a model's files follow: "pt" (Hugging Face's) or "mlx", as they say themselves."""
    header = json.loads(read_header_bytes(min(directory.glob("model*.safetensors"))))
    return str((header.get("__metadata__") or {}).get("format", "pt"))


def make_header(shapes: dict[str, tuple[str, tuple[int, ...]]], format_name: str) -> bytes:
    """The head of a safetensors file whose data follows in this order; ``shapes`` is (dtype, shape) by name."""
    header: dict[str, object] = {"__metadata__": {"format": format_name}}
    position = 0
    for name, (dtype, shape) in shapes.items():
        end = position + prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

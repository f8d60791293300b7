"""Safetensors I/O in numpy: headers, rows on demand, and dtype conversion (F32, F16, BF16)."""

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

# safetensors' dtype names. bfloat16 is kept as its bits, since numpy has no such type.
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32, "U8": np.uint8, "I64": np.int64}
# These are only copied, the 8-bit floats as their bits.
DTYPES |= {"BOOL": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "F64": np.float64}
DTYPES |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), np.uint8)
# Elements in one piece of rows: small enough for the processor's cache.
PIECE = 1 << 19


@dataclass(frozen=True)
class Stored:
    """Tensor in a safetensors file; ``start`` is the offset of its first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def row(self) -> int:
        """Number of elements in one row, along the first axis."""
        return prod(self.shape[1:])

    def rows(self, first: int, last: int) -> np.ndarray:
        """Read rows ``first`` to ``last`` (excluded) as stored; a scalar has one row."""
        kind = np.dtype(DTYPES[self.dtype])
        shape = (last - first, *self.shape[1:]) if self.shape else ()
        offset = self.start + first * self.row * kind.itemsize
        return np.fromfile(self.file, dtype=kind, count=prod(shape), offset=offset).reshape(shape)

    def read(self) -> np.ndarray:
        """Read all rows as stored."""
        return self.rows(0, self.shape[0] if self.shape else 1)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of pieces of rows."""
        count = self.shape[0] if self.shape else 1
        step = max(1, PIECE // max(1, self.row))
        return ((first, min(first + step, count)) for first in range(0, count, step))


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """Return every tensor of a model directory, by name, in the order of its files.

    Raises:
        UserError: a file is missing or broken.
    """
    check_weights(directory)
    found: dict[str, Stored] = {}
    for file in sorted(directory.glob("model*.safetensors")):
        found.update(read_header(file))
    return found


def read_header(file: Path) -> dict[str, Stored]:
    """Read a safetensors header (8 bytes of length, JSON, then data): the tensors in the order of their data."""
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
    """Convert a stored array to float32; ``dtype`` is F32, F16 or BF16."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round to the nearest number of ``dtype`` (F32, F16, BF16), ties to even; overflow becomes infinite."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    bits = values.view(np.uint32)
    # A NaN stays a NaN: only its upper half is kept, with a bit set.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def format_of(directory: Path) -> str:
    """Return the format in a model's file metadata: "pt" (Hugging Face's names and shapes) or "mlx"."""
    header = json.loads(read_header_bytes(min(directory.glob("model*.safetensors"))))
    return str((header.get("__metadata__") or {}).get("format", "pt"))


def make_header(shapes: dict[str, tuple[str, tuple[int, ...]]], format_name: str) -> bytes:
    """Return the safetensors header for data in this order; ``shapes`` is (dtype, shape) by name."""
    header: dict[str, object] = {"__metadata__": {"format": format_name}}
    position = 0
    for name, (dtype, shape) in shapes.items():
        end = position + prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

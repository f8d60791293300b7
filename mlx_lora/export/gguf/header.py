"""GGUF header parser, independent of the gguf package: a file written with one program is checked with another.

The format: magic, version, counts; (key, type, value) for each metadata entry; (name, dimensions, type, offset) for
each tensor; then the tensors' bytes, aligned (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import first_line
from ...user_files import open_regular

MAGIC, TEXT, ARRAY = b"GGUF", 8, 9
# struct's format characters of GGUF's scalar types, by their numbers.
VALUES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32


@dataclass
class Entry:
    """Tensor info: ggml's type number, the shape in numpy's order, and the offset of the first byte in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int


def read_gguf_header(file: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Read metadata and tensor infos, by name, in file order.

    Raises:
        ValueError: it is not a GGUF file, or it is truncated.
    """
    try:
        with open_regular(file) as opened:
            if opened.read(4) != MAGIC:
                raise ValueError(f"{file}: this is no GGUF file")
            version, tensor_count, fact_count = _numbers(opened, "IQQ")
            if version not in (2, 3):
                raise ValueError(f"{file}: version {version} of GGUF is not known here")
            facts = {_text(opened): _value(opened, *_numbers(opened, "I")) for _ in range(fact_count)}
            found = [_tensor(opened) for _ in range(tensor_count)]
            alignment = facts.get("general.alignment", ALIGNMENT)
            start = -(-opened.tell() // alignment) * alignment
    except OSError:
        raise
    except Exception as error:  # any invalid length, type or alignment
        raise ValueError(f"{file}: this GGUF file is broken ({first_line(error)})") from error
    return facts, {name: Entry(kind, shape, start + offset) for name, kind, shape, offset in found}


def _numbers(opened: IO[bytes], letters: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{letters}", _bytes(opened, struct.calcsize(f"<{letters}")))


def _bytes(opened: IO[bytes], length: int) -> bytes:
    """Read N bytes, without allocating more than the file has."""
    if length > os.fstat(opened.fileno()).st_size - opened.tell():
        raise struct.error("it ends too early")
    return opened.read(length)


def _text(opened: IO[bytes]) -> str:
    return _bytes(opened, *_numbers(opened, "Q")).decode("utf-8")


def _value(opened: IO[bytes], kind: int) -> Any:
    if kind == TEXT:
        return _text(opened)
    if kind != ARRAY:
        return _numbers(opened, VALUES[kind])[0]
    inner, count = _numbers(opened, "IQ")
    if inner in (TEXT, ARRAY):
        return [_value(opened, inner) for _ in range(count)]
    return list(_numbers(opened, f"{count}{VALUES[inner]}"))


def _tensor(opened: IO[bytes]) -> tuple[str, int, tuple[int, ...], int]:
    name, (dimensions,) = _text(opened), _numbers(opened, "I")
    shape = _numbers(opened, f"{dimensions}Q")
    kind, offset = _numbers(opened, "IQ")
    return name, kind, tuple(int(size) for size in reversed(shape)), offset

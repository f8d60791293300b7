"""Fingerprint of a base's weights: the same for the same tensors on every machine, in every directory and sharding."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

from .parameters import data_start, read_header

# Version of the scheme below; fingerprints of different schemes are not comparable.
SCHEME = "weights-1"
# Weights of up to N bytes are hashed as a whole; of larger bases, windows of each tensor.
WHOLE = 64 << 20
WINDOW, WINDOWS, FEWEST = 4096, 16, 2
MOST_WINDOWS = 1 << 14


def base_fingerprint(directory: Path) -> str:
    """Return ``weights-1:`` and a sha256 over the name, dtype, shape and bytes of every tensor of a model directory.

    Tensors are taken in the order of their names, so that neither sharding nor metadata matters. Above ``WHOLE`` bytes,
    up to ``WINDOWS`` windows of each tensor, evenly spaced from its first to its last byte, stand for its bytes:
    bases that were trained separately differ in nearly every value.

    Raises:
        OSError, ValueError: a file cannot be read, or is not a safetensors file.
    """
    tensors: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in sorted(directory.glob("model*.safetensors")):
        tensors |= {name: (file, tensor) for name, tensor in read_header(file).items()}
    windows = max(FEWEST, min(WINDOWS, MOST_WINDOWS // max(1, len(tensors))))
    whole = sum(_size(tensor) for _, tensor in tensors.values()) <= WHOLE
    files = {file: open(file, "rb") for file in {file for file, _ in tensors.values()}}  # noqa: SIM115
    digest = hashlib.sha256()
    try:
        starts = {file: data_start(file) for file in files}
        for name, (file, tensor) in sorted(tensors.items()):
            digest.update(f"{name}\0{tensor['dtype']}\0{tensor['shape']}\0".encode())
            start, size = starts[file] + tensor["data_offsets"][0], _size(tensor)
            _hash_bytes(digest, files[file], start, size, size if whole else WINDOW, windows)
    finally:
        for opened in files.values():
            opened.close()
    return f"{SCHEME}:{digest.hexdigest()}"


def another_base(recorded: Any, now: str) -> bool:
    """Return True if a recorded fingerprint differs from the current one; False if missing or of another scheme."""
    scheme = f"{SCHEME}:"
    return isinstance(recorded, str) and recorded.startswith(scheme) and recorded != now


def _size(tensor: dict[str, Any]) -> int:
    first, last = tensor["data_offsets"]
    return int(last) - int(first)


def _hash_bytes(digest: Any, file: BinaryIO, start: int, size: int, window: int, windows: int) -> None:
    if size <= window * windows:
        spans = [(start, size)]
    else:
        spans = [(start + (size - window) * i // (windows - 1), window) for i in range(windows)]
    for position, length in spans:
        file.seek(position)
        while length:
            read = file.read(min(length, 1 << 20))
            if not read:
                raise ValueError(f"{file.name} is truncated")
            digest.update(read)
            length -= len(read)

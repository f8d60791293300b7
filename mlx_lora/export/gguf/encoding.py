"""GGUF tensor encoding: weights to F32, F16, BF16 or Q8_0 in pieces of rows, on all cores, never a whole tensor."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from math import prod
from typing import IO

import numpy as np

from ...errors import UserError
from ..merge import Weight
from ..tensors import from_float32, to_float32
from .architectures import permute_rows

TYPES = ("f32", "f16", "bf16", "q8_0")
Q8_BLOCK = 32
WORKERS = os.cpu_count() or 1
# Pieces computed ahead of the one that is written.
AHEAD = 2 * WORKERS


def bytes_of(kind: str, shape: tuple[int, ...]) -> int:
    """Return the size in bytes of a tensor in one of ``TYPES``; a Q8_0 block is 32 numbers in 34 bytes."""
    return prod(shape) * {"f32": 64, "f16": 32, "bf16": 32, "q8_0": 17}[kind] // 16


def encoded_pieces(weight: Weight, kind: str, heads: int | None) -> list[Callable[[], np.ndarray]]:
    """Return a job for each piece of a tensor, in file order: bfloat16 as its bits, Q8_0 as bytes [rows, ...].

    Args:
        heads: permute the rows of this many heads, which takes the whole tensor as one piece.
    """
    if heads is None:
        return [partial(_encode, weight, kind, first, last) for first, last in weight.pieces()]

    def whole() -> np.ndarray:
        parts = [_encode(weight, kind, first, last) for first, last in weight.pieces()]
        return permute_rows(np.concatenate(parts), heads)

    return [whole]


def made_in_order(jobs: Iterable[Callable[[], np.ndarray]], threads: bool) -> Iterator[np.ndarray]:
    """Yield the results of jobs in order, computed a few ahead by a thread pool."""
    if not threads:
        yield from (job() for job in jobs)
        return
    remaining = iter(jobs)
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[np.ndarray]] = deque(pool.submit(job) for job in islice(remaining, AHEAD))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(pool.submit(job) for job in islice(remaining, 1))
            yield made


class PiecewiseTensor:
    """Streamed tensor for gguf's writer, which only reads its size and calls ``tofile``."""

    def __init__(self, nbytes: int, pieces: Iterator[np.ndarray]) -> None:
        self.nbytes = nbytes
        self._pieces = pieces

    def tofile(self, file: IO[bytes]) -> None:
        """Write the pieces to a file, as ``numpy.ndarray.tofile`` does."""
        written = sum(file.write(np.ascontiguousarray(piece).data) for piece in self._pieces)
        if written != self.nbytes:
            raise RuntimeError(f"a tensor has {written} bytes where {self.nbytes} were promised")


def _encode(weight: Weight, kind: str, first: int, last: int) -> np.ndarray:
    if weight.as_stored and weight.stored.dtype == kind.upper():
        values = weight.stored.rows(first, last)
    elif weight.as_stored and weight.stored.dtype == "BF16" and kind == "f16":
        # A lookup table of all 65,536 bfloat16 numbers is faster than arithmetic.
        values = np.take(_float16_of_bfloat16(), weight.stored.rows(first, last), mode="clip")
    else:
        exact = weight.float32(first, last)
        if kind == "q8_0":
            from gguf import GGMLQuantizationType, quantize

            # The scale of each block is its largest number divided by 127, in float16.
            _check_finite(weight, "f16", from_float32(np.abs(exact).max(keepdims=True) / np.float32(127), "F16"))
            return quantize(exact, GGMLQuantizationType.Q8_0)
        values = from_float32(exact, kind.upper())
    _check_finite(weight, kind, values)
    return values


@cache
def _float16_of_bfloat16() -> np.ndarray:
    return from_float32(to_float32(np.arange(1 << 16, dtype=np.uint16), "BF16"), "F16")


def _check_finite(weight: Weight, kind: str, values: np.ndarray) -> None:
    # In the bits of each type, without the sign, an exponent of all ones (infinity or NaN) is the largest.
    number, infinite = {"f16": ("u2", 0x7C00), "bf16": ("u2", 0x7F80), "f32": ("u4", 0x7F800000)}[kind]
    bits = np.atleast_1d(values).view(number)
    # Adding a number to itself drops the sign.
    if int((bits + bits).max(initial=0)) >= 2 * infinite:
        raise UserError(
            f"{weight.name}: some of its numbers are too large for {kind}, or not finite at all; "
            "try --type bf16, or look at how the adapter was trained"
        )

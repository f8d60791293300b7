"""Vector file: float32 rows, appended only, read through a memory map. SQLite says how many rows count."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import writing

if TYPE_CHECKING:
    import numpy as np


def append_rows(file: Path, begin: int, rows: np.ndarray) -> None:
    """Write rows after the first ``begin`` ones, over what an interrupted import left there, and sync them.

    Raises:
        UserError: the file system refuses.
    """
    content = memoryview(rows.astype("<f4", copy=False).tobytes())
    with writing(file):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            place = begin * rows.shape[1] * 4
            while content:
                written = os.pwrite(descriptor, content, place)
                content, place = content[written:], place + written
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def map_rows(file: Path, rows: int, dimension: int) -> np.ndarray:
    """Map the first rows of a vector file, [rows, dimension].

    Raises:
        FileNotFoundError: another process has replaced it by a compact one.
        UserError: it is shorter than that.
    """
    import numpy as np

    if rows == 0:
        return np.zeros((0, dimension), dtype=np.float32)
    if not has_rows(file, rows, dimension):
        raise UserError(
            f"{file}: this file is damaged (it lacks rows); `mlx-lora index add` without paths makes it anew"
        )
    return np.asarray(np.memmap(file, dtype="<f4", mode="r", shape=(rows, dimension)))


def has_rows(file: Path, rows: int, dimension: int) -> bool:
    """Return True if a vector file is as long as that many rows.

    Raises:
        FileNotFoundError: there is none.
    """
    return os.stat(file).st_size >= rows * dimension * 4


def best_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the ``k`` highest finite scores, the highest first, equal ones by row."""
    import numpy as np

    if k < len(scores):
        # Everything that equals the k-th score takes part, so that a tie is decided by the row alone.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(len(scores))
    rows = rows[np.isfinite(scores[rows])]
    return rows[np.lexsort((rows, -scores[rows]))][:k]

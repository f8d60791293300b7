"""BLAS selection on Linux: the system's OpenBLAS in place of the reference BLAS inside MLX's wheel."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("libopenblas.so.0", "libopenblas.so")
NOT_FOUND = (
    "OpenBLAS was not found, and the BLAS inside MLX's wheel is some 15 times slower; "
    "install it (Debian, Ubuntu: apt install libopenblas0-pthread)"
)
TOO_LATE = (
    "mlx.core was imported before mlx_lora, so that MLX multiplies with the BLAS in its wheel, some 15 times slower "
    "than OpenBLAS; import mlx_lora.backends.mlx first"
)


def load_fast_blas() -> str | None:
    """Load OpenBLAS before MLX, so that MLX's products resolve to it (some 15 times faster).

    Call before the first ``import mlx.core``: its symbols are bound when it is loaded.

    Returns:
        The reason that products are slow, or ``None`` where they are fast: always on macOS.
    """
    if sys.platform != "linux":
        return None
    # OpenBLAS is already loaded, e.g. by LD_PRELOAD.
    preloaded = any("libopenblas" in name for name in os.environ.get("LD_PRELOAD", "").split(":"))
    if "mlx.core" in sys.modules and not preloaded:
        return TOO_LATE
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return None
    return NOT_FOUND


@contextmanager
def one_core_free() -> Iterator[None]:
    """Limit OpenBLAS to all cores but one in the block.

    Its threads wait without sleeping: where one has to share its core with another program, all take several times the
    time. Without OpenBLAS nothing changes.
    """
    library = _loaded()
    before = library.openblas_get_num_threads() if library else 0
    if library:
        library.openblas_set_num_threads(max(1, min(before, (os.cpu_count() or 1) - 1)))
    try:
        yield
    finally:
        if library:
            library.openblas_set_num_threads(before)


def _loaded() -> ctypes.CDLL | None:
    """Return OpenBLAS if this process has loaded it."""
    for name in LIBRARIES if sys.platform == "linux" else ():
        try:
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
        except OSError:
            continue
    return None

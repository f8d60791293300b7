"""Matrix products on Linux: prefer the system's OpenBLAS to the reference BLAS inside MLX's wheel."""

from __future__ import annotations

import ctypes
import sys

LIBRARIES = ("libopenblas.so.0", "libopenblas.so")


def load_fast_blas() -> bool:
    """Load OpenBLAS before MLX, so that MLX's products resolve to it (some 15 times faster).

    Call before the first ``import mlx.core``. Returns whether products are fast: always on macOS.
    """
    if sys.platform != "linux":
        return True
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False

"""MLX backend: importing it loads a fast BLAS on Linux, which must happen before MLX itself is loaded."""

from .blas import load_fast_blas

# Reason that matrix products are slow on this machine, or None.
SLOW_BLAS = load_fast_blas()

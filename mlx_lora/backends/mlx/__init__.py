"""The MLX backend. Importing it loads a fast BLAS on Linux, which has to happen before MLX itself is loaded."""

from .blas import load_fast_blas

# Why products are slow on this machine, or None.
SLOW_BLAS = load_fast_blas()

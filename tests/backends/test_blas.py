"""Which BLAS MLX multiplies with on Linux, and that a late import is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_lora.backends.mlx.blas import TOO_LATE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has a fast BLAS of its own")


def reported(first: str) -> str:
    """What the package says of the BLAS after ``first`` was imported, in a process of its own."""
    code = f"import {first}\nfrom mlx_lora.backends.mlx import SLOW_BLAS\nprint(SLOW_BLAS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_mlx_imported_first_has_the_slow_blas_and_says_so():
    assert reported("mlx.core") == TOO_LATE


def test_the_package_imported_first_loads_openblas():
    assert reported("mlx_lora") == "None"


def test_a_preloaded_openblas_is_fast_whatever_is_imported_first(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libopenblas.so.0")
    assert reported("mlx.core") == "None"

"""Backend registry: the backend that the config requests, or the one that suits this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass

from ..errors import UserError, first_line

# Packages that the torch backend imports; the extra ``torch`` installs them.
TORCH_PACKAGES = ("torch", "transformers", "peft", "accelerate")
NEEDS_TORCH = "the torch backend needs the extra torch; pip install 'mlx-lora[torch]'"
NEEDS_MLX = "the MLX backend needs MLX, which has no wheel for this machine; use --backend torch"


@dataclass(frozen=True)
class Choice:
    """Selected backend, ``mlx`` or ``torch``, with the reason for the selection."""

    name: str
    why: str


def choose(requested: str = "auto") -> Choice:
    """Return the backend to load: the requested one, or the one that suits this machine.

    Args:
        requested: ``auto``, ``mlx`` or ``torch``.

    Raises:
        UserError: the requested backend is not installed, or no backend is.
    """
    has_mlx = importlib.util.find_spec("mlx") is not None
    has_torch = all(importlib.util.find_spec(name) is not None for name in TORCH_PACKAGES)
    if requested == "torch" or (requested == "mlx" and has_mlx):
        if requested == "torch" and not has_torch:
            raise UserError(NEEDS_TORCH)
        return Choice(requested, "it was asked for")
    if requested == "mlx":
        raise UserError(NEEDS_MLX)
    if has_mlx and "MLX_RANK" in os.environ:
        return Choice("mlx", "mlx.launch has launched this process")
    if has_torch and "TORCHELASTIC_RUN_ID" in os.environ:
        return Choice("torch", "torchrun has launched this process")
    if has_mlx and sys.platform == "darwin" and platform.machine() == "arm64":
        return Choice("mlx", "this is Apple silicon")
    if has_torch and has_cuda():
        return Choice("torch", "there is a CUDA device")
    if has_mlx:
        return Choice("mlx", "there is no CUDA device that torch could use, and MLX runs on the CPU")
    if has_torch:
        return Choice("torch", "MLX is not installed")
    raise UserError(f"neither MLX nor torch is installed here; {NEEDS_TORCH}")


def library_fails(error: Exception) -> UserError:
    """Return the error for a library of the torch backend that is installed and cannot be imported."""
    said = f"a library of the torch backend does not load ({first_line(error)})"
    return UserError(f"{said}; `mlx-lora doctor` says which to repair")


def has_cuda() -> bool:
    """Return True if torch, which must be installed, sees a CUDA device."""
    try:
        import torch
    except (ImportError, OSError) as error:
        raise UserError(f"torch is installed here and does not load ({first_line(error)}); install it again") from error
    return torch.cuda.is_available()

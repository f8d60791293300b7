"""Torch device: selection, memory, and errors for a lack of memory or of a compiler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...data.parts import SMALL, PassCost
from ...errors import UserError, first_line
from ...memory import peak_resident
from ..errors import NO_MEMORY

# A step of Llama launches some 180 kernels a layer, of 7 linear modules with LoRA, at some 10 µs each.
SECONDS_A_LINEAR = 2.6e-4
# What a large GPU computes in bfloat16 while training, between an A100 and an H100.
GPU_FLOPS = 3e14


def find_device() -> torch.device:
    """Return this process's CUDA device, or the CPU.

    On CUDA, deterministic kernels are selected.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # cuBLAS reads this at its first use, see torch's notes on reproducibility; transformers reads the other variable.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory helps to find reads of uninitialised memory, and costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cuda", torch.cuda.current_device())


def usable_memory(device: torch.device) -> int:
    """Return the usable memory in bytes: the GPU's, or all memory without a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pass_cost(model: nn.Module, device: torch.device) -> PassCost:
    """Return the overhead of a pass through a model, forward and backward.

    On a GPU it is the time in which Python launches the pass's kernels, whatever their size. It follows from the model
    alone, not from a clock: the division of a step must be the same in every process and after every resume.
    """
    if device.type != "cuda":
        return SMALL
    parameters = sum(parameter.numel() for parameter in model.parameters())
    launching = sum(isinstance(module, nn.Linear) for module in model.modules()) * SECONDS_A_LINEAR
    # With a frozen base, 2 operations a parameter and token forward, 2 backward.
    tokens = max(64, round(launching * GPU_FLOPS / (4 * parameters)))
    return PassCost(part=tokens, prefix=tokens)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: on the GPU of tensors, on the CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


@contextmanager
def explained() -> Iterator[None]:
    """Raise UserError if memory, or a compiler, is lacking in the block, in one sentence.

    Raises:
        UserError: out of memory, or no compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise UserError(
                f"torch_compile: torch cannot compile here ({first_line(error, 2)}); "
                "install a C++ compiler, or leave it out"
            ) from error
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(NO_MEMORY) from error

"""MLX memory limits: bounded caches, wired memory, and errors of the Metal watchdog and allocator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ...errors import UserError
from ..errors import NO_MEMORY

# Cache of freed buffers, as a share of usable memory.
CACHE_SHARE = 8
# Metal's error text when the watchdog of macOS ends GPU work that blocked the display.
WATCHDOG = ("ImpactingInteractivity", "GPU Timeout", "GPU Hang")


def usable_memory() -> int:
    """Return the usable memory in bytes: the GPU's recommended working set, or all memory without a GPU."""
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return int(recommended or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def set_limits() -> None:
    """Set the cache limit, and wire the model's memory on a Metal GPU."""
    memory = usable_memory()
    mx.set_cache_limit(memory // CACHE_SHARE)
    if mx.metal.is_available():
        mx.set_wired_limit(memory)


@contextmanager
def explained() -> Iterator[None]:
    """Raise UserError if the GPU fails in the block, in one sentence.

    Raises:
        UserError: the watchdog stopped the work, or memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(word in text for word in WATCHDOG):
            raise UserError(
                "macOS stopped the GPU's work because it kept the display waiting; the last checkpoint is kept: "
                "let the display sleep, or lower batch_size or max_seq_length, and run the same command again"
            ) from error
        if "nsufficient Memory" in text or "[malloc" in text or "out of memory" in text:
            raise UserError(NO_MEMORY) from error
        raise

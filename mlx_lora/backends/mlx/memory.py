"""What keeps a Mac usable while it trains: bounded caches, wired memory, and the display's watchdog explained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ...errors import UserError
from ..errors import NO_MEMORY

# Freed buffers kept for reuse, as a share of what the machine has for a model.
CACHE_SHARE = 8
# Metal's words when macOS ends GPU work that kept the display waiting.
WATCHDOG = ("ImpactingInteractivity", "GPU Timeout", "GPU Hang")


def usable_memory() -> int:
    """Bytes this machine has for a model: the GPU's recommended working set, or all memory where there is none."""
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return int(recommended or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def set_limits() -> None:
    """Bound the cache, and keep the model's memory wired where there is a Metal GPU."""
    memory = usable_memory()
    mx.set_cache_limit(memory // CACHE_SHARE)
    if mx.metal.is_available():
        mx.set_wired_limit(memory)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the GPU refuses into one sentence.

    Raises:
        UserError: the watchdog stopped the work, or there was no memory left.
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

"""Memory meter of a torch process on CUDA or the CPU, and facts about its device."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import torch

# Peak dense bfloat16 TFLOP/s by CUDA device name: NVIDIA's datasheets of the H100 SXM and the H200 SXM.
PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}


class Gauge:
    """Peak memory above the memory in use at construction.

    On CUDA, the memory of tensors. On a CPU under Linux, the resident set less mapped files such as libraries, whose
    pages are loaded as code first runs; elsewhere the growth of the largest resident set.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        self.start = self._reset()

    def _reset(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        if sys.platform == "linux":
            # Return freed memory to the system first, or a step could reuse it unmeasured.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return self._most()

    def _most(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "linux":
            resident = _resident()
            return resident["VmHWM"] - resident["RssFile"]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def peak(self) -> int:
        """Return the peak in bytes above the start."""
        return self._most() - self.start


def _resident() -> dict[str, int]:
    """Return memory in bytes by Linux' names: VmHWM is the largest resident set, RssFile its file-backed part."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


def finish(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def about_device(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return the device of a torch process and its peak performance, where known.

    ``peak_tflops`` applies to dense bfloat16 products; ``None`` for other dtypes and devices.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = PEAK_TFLOPS.get(name) if dtype == torch.bfloat16 else None
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "peak_tflops": peak,
    }

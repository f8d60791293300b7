"""Time and memory of a torch process, on CUDA or the CPU."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import torch

# Dense bfloat16 TFLOP/s by the name that CUDA gives: NVIDIA's datasheets of the H100 SXM and the H200 SXM.
PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}


class Gauge:
    """The most memory in use above what is there when it is made.

    On CUDA that of tensors. On Linux' CPUs the resident set less the files mapped into it, such as libraries, whose
    pages arrive as code is first run; elsewhere the growth of the largest resident set.
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
            # What was freed goes back to the system first, or a step could use it unseen.
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
        """Bytes above the start."""
        return self._most() - self.start


def _resident() -> dict[str, int]:
    """Bytes by the names that Linux gives them: VmHWM is the largest resident set, RssFile its part that is files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


def finish(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def about_device(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What a torch process computes on, and the most it could, where that is known.

    ``peak_tflops`` is that of dense bfloat16 products, ``None`` for other dtypes and devices.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = PEAK_TFLOPS.get(name) if dtype == torch.bfloat16 else None
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "peak_tflops": peak,
    }

"""Torch model that both sides of a comparison train, its memory meter, and facts about its device."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available

from ..backends.torch.loss import BatchArrays, plain_loss_sums
from ..data.collate import collate
from .cases import Row, Spec
from .report import JUDGED

# Peak dense bfloat16 TFLOP/s by CUDA device name: NVIDIA's datasheets of the H100 SXM and the H200 SXM.
PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}


def device_of() -> torch.device:
    """Return the CUDA device, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtype_of(spec: Spec, device: torch.device) -> torch.dtype:
    """Return the dtype of a spec's weights."""
    return getattr(torch, spec.dtype or ("bfloat16" if device.type == "cuda" else "float32"))


def build(spec: Spec, device: torch.device) -> Any:
    """Return a frozen model of the spec's config with random weights, the same each time."""
    # Free the memory of earlier specs of this worker.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    values = dict(spec.config)
    dtype = dtype_of(spec, device)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    # Same attention as in our backend; with FlashAttention, the baseline packs without masking.
    flash = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="flash_attention_2" if flash else "sdpa"
        )
    return model.requires_grad_(False)


@torch.no_grad()
def loss_after(model: Any, rows: list[Row]) -> float:
    """Return the mean loss over the answers of the first rows, by the plain computation for both sides."""
    model.eval()
    batches = [BatchArrays.of(collate([row.encoded()]), model.device) for row in rows[:JUDGED]]
    plain = [float(plain_loss_sums(model, batch)[1]) for batch in batches]
    return sum(plain) / sum(len(row.ids) - row.prompt for row in rows[:JUDGED])


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

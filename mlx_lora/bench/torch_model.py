"""Torch model that both sides of a comparison train."""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available

from ..backends.torch.loss import BatchArrays, plain_loss_sums
from ..data.collate import collate
from .report import JUDGED, Spec
from .synthetic_data import Row


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

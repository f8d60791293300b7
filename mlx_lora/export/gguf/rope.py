"""RoPE scaling: a config's ``rope_scaling`` as GGUF metadata and frequency factors."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np

from ...errors import UserError

# Original context length of llama3's scaling, if a config does not give it.
LLAMA3_CONTEXT = 8192


def scaling_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (kind, settings) of a config's scaling; kind "none" if there is none."""
    settings = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = settings.get("rope_type") or settings.get("type") or "default"
    return ("none" if kind == "default" else kind), settings


def head_size(config: dict[str, Any]) -> int:
    """Return the dimension of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_divisors(config: dict[str, Any]) -> np.ndarray | None:
    """Return llama3 scaling's divisor of each frequency, float32 [head size / 2]; ``None`` for another scaling.

    Low frequencies are divided by ``factor``, high ones by 1, those between by an interpolated value, as in Meta's
    Llama 3.1.
    """
    kind, settings = scaling_of(config)
    if kind != "llama3":
        return None
    size, base, factor = head_size(config), float(config["rope_theta"]), float(settings["factor"])
    low, high = float(settings.get("low_freq_factor", 1.0)), float(settings.get("high_freq_factor", 4.0))
    context = float(settings.get("original_max_position_embeddings", LLAMA3_CONTEXT))
    turns = context / (2 * pi * base ** (np.arange(0, size, 2, dtype=np.float64) / size))
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)


def add_rope(writer: Any, config: dict[str, Any], where: str) -> None:
    """Write RoPE base and scaling into a GGUF's metadata.

    Raises:
        UserError: a kind of scaling that GGUF cannot express.
    """
    from gguf import RopeScalingType

    writer.add_rope_freq_base(float(config.get("rope_theta", 10_000.0)))
    kind, settings = scaling_of(config)
    if kind in ("none", "llama3"):
        return
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(settings["factor"]))
        return
    odd = [key for key in ("mscale", "mscale_all_dim", "attention_factor") if key in settings]
    if kind != "yarn" or odd:
        raise UserError(
            f"{where}: its rope scaling {' with '.join([kind, *odd])} cannot be written as GGUF here; "
            "use `mlx-lora fuse` instead"
        )
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(settings["factor"]))
    original = settings.get("original_max_position_embeddings") or config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(int(original))
    for key, add in (
        ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
        ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
    ):
        if key in settings:
            add(float(settings[key]))

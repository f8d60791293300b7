"""PEFT reader: names and layout of a PEFT directory, and the settings that mlx-lm's format can hold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line
from ...user_files import read_text
from ..adapter import LoraWeights, read_arrays
from .settings import check_selection, check_settings

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Prefix that PEFT writes before a module's path in the model.
PREFIX = "base_model.model."
PARTS = {"a": "lora_A.weight", "b": "lora_B.weight", "m": "lora_magnitude_vector"}


@dataclass
class PeftAdapter:
    """Content of a PEFT directory; ``pairs`` in MLX's layout, by the module's path in transformers."""

    config: dict[str, Any]
    kind: str
    rank: int
    scale: float
    dropout: float
    pairs: dict[str, LoraWeights]


def read_peft(directory: Path) -> PeftAdapter:
    """Read the LoRA or DoRA adapter of a PEFT directory.

    Raises:
        UserError: no such directory, another kind of adapter, pickled or broken weights, or a setting that mlx-lm's
            format cannot hold; each is named.
    """
    file = directory / PEFT_CONFIG
    config = _read_config(directory)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{file}: this is a {config.get('peft_type')} adapter; only LORA can be imported")
    check_settings(file, config)
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        dropout = float(config.get("lora_dropout") or 0.0)
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError(f"r is {rank} and lora_alpha {alpha}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{file}: r, lora_alpha or lora_dropout is missing or not a number ({first_line(error)})"
        ) from error
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    pairs = _pairs(directory / PEFT_FILE)
    check_selection(file, config, list(pairs))
    dora = any(pair.m is not None for pair in pairs.values())
    if dora != bool(config.get("use_dora")):
        raise UserError(f"{file}: use_dora does not agree with the weights beside it, so this adapter is broken")
    return PeftAdapter(config, "dora" if dora else "lora", rank, scale, dropout, pairs)


def _read_config(directory: Path) -> dict[str, Any]:
    file = directory / PEFT_CONFIG
    try:
        config = json.loads(read_text(file))
    except FileNotFoundError:
        raise UserError(f"{directory}: there is no PEFT adapter here (no {PEFT_CONFIG})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: this adapter's config is not readable JSON ({error})") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        ours = isinstance(config, dict) and "lora_parameters" in config
        hint = "; it is in mlx-lm's format already" if ours else ""
        raise UserError(f"{file}: this is not PEFT's config, it names no peft_type{hint}")
    if not (directory / PEFT_FILE).exists():
        if (directory / "adapter_model.bin").exists():
            raise UserError(
                f"{directory / 'adapter_model.bin'}: these weights are pickled, which can run code when opened; "
                "save the adapter as safetensors first"
            )
        raise UserError(f"{directory}: the adapter's weights ({PEFT_FILE}) are missing")
    return config


def _pairs(file: Path) -> dict[str, LoraWeights]:
    """Group PEFT's tensors by module, in MLX's layout."""
    import mlx.core as mx

    found: dict[str, dict[str, Any]] = {}
    for name, value in read_arrays(file).items():
        # Older versions kept the adapter's name in the key.
        plain = name.replace(".default", "")
        part = next((part for part, ending in PARTS.items() if plain.endswith(f".{ending}")), None)
        if part is None or not plain.startswith(PREFIX) or value.ndim != (1 if part == "m" else 2):
            raise UserError(f"{file}: {name} is not a matrix of a LoRA on a linear layer, so it cannot be imported")
        path = plain.removeprefix(PREFIX).removesuffix(f".{PARTS[part]}")
        found.setdefault(path, {})[part] = value if part == "m" else mx.contiguous(value.T)
    for path, parts in found.items():
        if not {"a", "b"} <= set(parts):
            raise UserError(f"{file}: {path} has only one of its two matrices, so this adapter is broken")
        if ("m" in parts) != ("m" in next(iter(found.values()))):
            raise UserError(f"{file}: some modules have DoRA's magnitudes and some have not")
    if not found:
        raise UserError(f"{file}: there is nothing in this adapter")
    return {path: LoraWeights(parts["a"], parts["b"], parts.get("m")) for path, parts in found.items()}

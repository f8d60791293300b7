"""Parameter counts: trainable parameters from a config.json without weights, and safetensors headers."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from ..config import TrainingConfig
from ..user_files import open_regular

# Architectures whose layers have the seven projections below and no other module that LoRA adapts.
MOST_HEADER = 100_000_000
PLAIN_TYPES = {"llama", "mistral", "qwen2", "qwen3"}


def projections(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each matrix of one layer, by its name.

    Args:
        config: a model's ``config.json``; ``head_dim`` and ``num_key_value_heads`` may be missing, as they may there.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, values = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    wide = config["intermediate_size"]
    return {
        "q_proj": (queries, hidden),
        "k_proj": (values, hidden),
        "v_proj": (values, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "down_proj": (hidden, wide),
    }


def trainable_parameters(config: dict[str, Any], training: TrainingConfig) -> int | None:
    """Return the number of trainable parameters: rank · (in + out) per matrix, for DoRA its out magnitudes as well.

    Args:
        config: a model's ``config.json``.

    Returns:
        ``None`` if it cannot be determined without the weights: full fine-tuning, other architectures, other modules.
    """
    if training.fine_tune_type == "full" or config.get("model_type") not in PLAIN_TYPES:
        return None
    known = projections(config)
    names = set(known if training.lora_target_modules == "auto" else training.lora_target_modules)
    if not names <= set(known):
        return None
    depth = config["num_hidden_layers"]
    layers = min(training.num_layers or depth, depth)
    magnitudes = training.fine_tune_type == "dora"
    return layers * sum(
        training.lora_rank * (known[name][0] + known[name][1]) + magnitudes * known[name][0] for name in names
    )


def read_header_bytes(file: Path) -> bytes:
    """Return the safetensors header as JSON bytes, without its 8-byte length.

    Raises:
        OSError, ValueError: it cannot be read, or is not a safetensors file.
    """
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        # The format's own limit; a larger number means that this is another kind of file.
        header = stream.read(min(length, MOST_HEADER + 1))
    if len(header) != length or length > MOST_HEADER:
        raise ValueError(f"{file} is not a safetensors file")
    return header


def read_header(file: Path) -> dict[str, Any]:
    """Return the safetensors header: dtype and shape of each tensor by its name.

    Raises:
        OSError, ValueError: it cannot be read, or is not a safetensors file.
    """
    header = json.loads(read_header_bytes(file))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def data_start(file: Path) -> int:
    """Return the offset of the tensor data in a safetensors file."""
    with open(file, "rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def stored_parameters(file: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header.

    Raises:
        OSError, ValueError: see ``read_header``.
    """
    return sum(prod(tensor["shape"]) for tensor in read_header(file).values())

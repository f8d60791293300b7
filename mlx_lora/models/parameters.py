"""How many parameters a config trains on a model: computed from its config.json, without its weights."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from ..config import TrainingConfig
from ..user_files import open_regular

# The architectures whose layers are the seven projections below and nothing else that LoRA adapts.
MOST_HEADER = 100_000_000
PLAIN_TYPES = {"llama", "mistral", "qwen2", "qwen3"}


def projections(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of each matrix of one layer, by its name.

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
    """Numbers that LoRA or DoRA trains: rank · (in + out) a matrix, and for DoRA its out magnitudes besides.

    Args:
        config: a model's ``config.json``.

    Returns:
        ``None`` where it cannot be said without the weights: full fine-tuning, other architectures, other modules.
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
    """Return the JSON at the beginning of a safetensors file, after its 8 bytes of length.

    Raises:
        OSError, ValueError: it cannot be read, or is not a safetensors file.
    """
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        # The format's own limit; a larger number is some other file's beginning.
        header = stream.read(min(length, MOST_HEADER + 1))
    if len(header) != length or length > MOST_HEADER:
        raise ValueError(f"{file} is not a safetensors file")
    return header


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: dtype and shape of each tensor by its name.

    Raises:
        OSError, ValueError: it cannot be read, or is not a safetensors file.
    """
    header = json.loads(read_header_bytes(file))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def data_start(file: Path) -> int:
    """Return the position of the first tensor's first byte in a safetensors file."""
    with open(file, "rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def stored_parameters(file: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header.

    Raises:
        OSError, ValueError: see ``read_header``.
    """
    return sum(prod(tensor["shape"]) for tensor in read_header(file).values())

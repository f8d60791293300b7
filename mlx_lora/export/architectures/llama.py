"""Llama, and Mistral with a BPE tokenizer, which GGUF holds as Llama."""

from __future__ import annotations

from typing import Any

from . import Architecture


def refuses(config: dict[str, Any]) -> str | None:
    if "sliding_attention" in (config.get("layer_types") or ()):
        return "some of its layers attend to a sliding window"
    return None


ARCHITECTURE = Architecture(
    name="llama",
    model_types=("llama", "mistral"),
    permuted={"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"},
    refuses=refuses,
)

"""Model shapes: configs of real models, and smaller ones of the same proportions, for random weights."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

# hidden, intermediate, layers, heads, KV heads, head dimension, vocabulary, tied: from the models' config.json.
SHAPES: dict[str, tuple[str, int, int, int, int, int, int, int, bool]] = {
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama-3.2-3b": ("llama", 3072, 8192, 28, 24, 8, 128, 128256, True),
    "llama-3.1-8b": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False),
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True),
    "qwen2.5-7b": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    "qwen2.5-coder-7b": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
    "small-8k": ("llama", 256, 1024, 6, 4, 2, 64, 8192, True),
    "small-32k": ("llama", 256, 1024, 6, 4, 2, 64, 32000, True),
}


def body_parameters(config: dict[str, Any]) -> int:
    """Return the number of weights in the matrices of all layers, the body of the model."""
    hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    attention = hidden * config["head_dim"] * (2 * heads + 2 * kv)
    return config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"])


def shape_config(name: str, layers: int | None = None, hidden: int | None = None) -> dict[str, Any]:
    """Return the model config of a shape.

    Args:
        layers: reduced number of layers; without ``hidden`` the rest is unchanged.
        hidden: hidden size of a smaller model of the same proportions, including the ratio of head to body.

    Raises:
        UserError: the shape is unknown; the message lists the known ones.
    """
    if name not in SHAPES:
        raise UserError(f"--shape {name}: there is no such shape; use one of {', '.join(SHAPES)}")
    model_type, size, intermediate, depth, heads, kv, head_dim, vocabulary, tied = SHAPES[name]
    config = {
        "model_type": model_type,
        "hidden_size": size,
        "intermediate_size": intermediate,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
    }
    if hidden is not None:
        ratio = vocabulary * size / body_parameters(config)
        factor = hidden / size
        kv_heads = max(1, round(kv * factor))
        config |= {
            "hidden_size": hidden,
            "intermediate_size": round(intermediate * factor),
            "num_hidden_layers": layers or depth,
            "num_attention_heads": kv_heads * (heads // kv),
            "num_key_value_heads": kv_heads,
            "head_dim": max(16, hidden // (kv_heads * (heads // kv)) // 8 * 8),
        }
        config["vocab_size"] = max(1024, round(ratio * body_parameters(config) / hidden))
    elif layers is not None:
        config["num_hidden_layers"] = layers
    return config

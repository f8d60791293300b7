"""Memory and disk of each step of a GGUF export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..resources import CONVERTING, LLAMA_CPP, PROCESS, TOKEN, Step, numbers_of, streaming_bytes
from .architectures import heads_of

if TYPE_CHECKING:
    from ..reference import Questions
    from .writer import GGUFPlan


def gguf_steps(plan: GGUFPlan, questions: Questions, quantized: int | None) -> list[Step]:
    """Return the steps of a GGUF export.

    Args:
        quantized: size in bytes of the file that llama.cpp quantizes, ``None`` if there is none.
    """
    weights = [weight for _, _, weight in plan.tensors if weight is not None]
    process = PROCESS + TOKEN * plan.rows
    full = plan.weight_bytes + (32 << 20)
    permuted = [w for w in weights if heads_of(plan.architecture, plan.source.config, w.name) is not None]
    steps = [Step("convert", process + CONVERTING + 6 * max(map(numbers_of, permuted), default=0), full)]
    disk = full
    if quantized is not None:
        disk = full + quantized
        # llama.cpp holds a tensor in float32, and as much again for the result.
        steps.append(Step("quantize", process + LLAMA_CPP + 8 * max(map(numbers_of, weights)), disk))
    steps.append(Step("run in llama.cpp", process + LLAMA_CPP + _llama_cpp(plan, questions), disk))
    steps.append(Step("compare in MLX", process + streaming_bytes(weights, questions, plan.rows), disk))
    return steps


def _llama_cpp(plan: GGUFPlan, questions: Questions) -> int:
    """Return the bytes of llama.cpp's float32 KV cache, activations with logits of every token, and kept logits."""
    config = plan.source.config
    heads = int(config["num_attention_heads"])
    context = max(256, *map(len, questions.prompts), len(questions.greedy_prompt) + 24)
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    cache = 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * size
    return 4 * context * (cache + plan.rows)

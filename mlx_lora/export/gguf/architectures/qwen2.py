"""Qwen2 architecture (Qwen2 and Qwen2.5): biases on q, k and v."""

from . import Architecture

ARCHITECTURE = Architecture(name="qwen2", model_types=("qwen2",), permuted={}, biases=("q_proj", "k_proj", "v_proj"))

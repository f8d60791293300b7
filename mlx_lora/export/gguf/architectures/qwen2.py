"""Qwen2 and Qwen2.5, whose q, k and v have biases."""

from . import Architecture

ARCHITECTURE = Architecture(name="qwen2", model_types=("qwen2",), permuted={}, biases=("q_proj", "k_proj", "v_proj"))

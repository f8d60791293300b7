"""Qwen3 (dense), which norms q and k in each head."""

from . import Architecture

ARCHITECTURE = Architecture(name="qwen3", model_types=("qwen3",), permuted={})

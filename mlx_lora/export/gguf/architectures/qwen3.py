"""Qwen3 architecture (dense): q and k normalized in each head."""

from . import Architecture

ARCHITECTURE = Architecture(name="qwen3", model_types=("qwen3",), permuted={})

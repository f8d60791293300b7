"""``mlx-lora export``: an adapter in other programs' formats, one module a command."""

from __future__ import annotations

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "peft": ("mlx_lora.cli.export.peft", "peft", "The adapter for Hugging Face's PEFT."),
    "gguf": ("mlx_lora.cli.export.gguf", "gguf", "One file for llama.cpp, quantized if you like."),
    "gguf-lora": ("mlx_lora.cli.export.gguf", "gguf_lora", "The adapter alone, for llama.cpp beside a base GGUF."),
    "ollama": ("mlx_lora.cli.export.ollama", "ollama", "A model in Ollama, asked once before it gets its name."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def export() -> None:
    """Write an adapter, or a model with it, for other programs; what is written is checked against the adapter."""

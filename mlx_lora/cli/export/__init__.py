"""``mlx-lora export``: an adapter in other programs' formats, one module a command."""

from __future__ import annotations

import click

from ..lazy import LazyGroup

COMMANDS = {
    "gguf": ("mlx_lora.cli.export.gguf", "gguf", "One file for llama.cpp, quantized if you like."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def export() -> None:
    """Write an adapter, or a model with it, for other programs; what is written is checked against the adapter."""

"""``mlx-lora export gguf-lora``: an adapter for llama.cpp."""

from __future__ import annotations

import click

from ..output import json_option
from .report import conclude


@click.command("gguf-lora")
@click.option("--run", required=True, metavar="RUN", help="A run directory with its adapter.")
@click.option("--out", required=True, metavar="FILE", help="The .gguf file to make.")
@click.option("--base", metavar="GGUF", help="The GGUF it will be used with: compared first, nothing is written to it.")
@json_option
def gguf_lora(run: str, out: str, base: str | None, as_json: bool) -> None:
    """Write an adapter alone for llama.cpp, which adds it to a base GGUF (`llama-cli --lora FILE`).

    \b
    mlx-lora export gguf-lora --run adapters/lumen --out lumen-lora.gguf
    """
    from ...export.gguf.lora import export_gguf_lora

    conclude(export_gguf_lora(run, out, base), as_json)

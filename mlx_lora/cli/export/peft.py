"""``mlx-lora export peft`` and ``mlx-lora import peft``."""

from __future__ import annotations

import click

from ..options import json_option
from .report import conclude


@click.command()
@click.option("--run", required=True, metavar="RUN", help="A run directory with its adapter.")
@click.option("--out", required=True, metavar="DIR", help="The directory to make.")
@json_option
def peft(run: str, out: str, as_json: bool) -> None:
    """Write an adapter as Hugging Face's PEFT reads it (adapter_model.safetensors, adapter_config.json).

    \b
    mlx-lora export peft --run adapters/lumen --out peft/lumen
    """
    from ...export.peft.export import export_peft

    conclude(export_peft(run, out), as_json)


@click.command("peft")
@click.argument("directory", metavar="DIR")
@click.option("--out", required=True, metavar="RUN", help="The run directory to make, usually adapters/NAME.")
@click.option("--base", metavar="MODEL", help="The base model, if not the one that the adapter names.")
@json_option
def import_peft(directory: str, out: str, base: str | None, as_json: bool) -> None:
    """Make a run of a PEFT adapter: generate, eval, fuse and every export take it.

    \b
    mlx-lora import peft peft/lumen --out adapters/lumen-again
    """
    from ...export.peft.adapter_import import import_peft as run_import

    conclude(run_import(directory, out, base), as_json)

"""``mlx-lora export gguf`` and ``export gguf-lora``: a run's model, or its adapter alone, in one file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import progress
from .report import announce, conclude


@click.command()
@click.option(
    "--run", required=True, metavar="RUN_OR_MODEL", help="A run directory, or a base model by name or directory."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.gguf", help="A new file.")
@click.option(
    "--type",
    "kind",
    default="f16",
    show_default=True,
    metavar="TYPE",
    help="f32, f16, bf16, q8_0, or one that llama.cpp quantizes to: q4_k_m, q5_k_m, q6_k, ...",
)
@click.option(
    "--converter",
    metavar="PATH|uvx|pipx",
    help="Upstream's converter; by default one on PATH, for architectures and tokenizers that are not written here.",
)
@json_option
def gguf(run: str, out: Path, kind: str, converter: str | None, as_json: bool) -> None:
    """Write base and adapter as one GGUF file, and check it in llama.cpp against the adapter in MLX.

    A file that fails a check is kept aside as FILE.rejected, and the exit status is 1.

    \b
    mlx-lora export gguf --run adapters/lumen --out lumen.gguf --type q4_k_m
    """
    from ...export.gguf.export import export_gguf

    with progress(f"{run} as {kind}", 100) as advance:
        report = export_gguf(run, out, kind.lower(), lambda share: advance(round(100 * share)), announce, converter)
    conclude(report, as_json)


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

"""``mlx-lora fuse``: a run's base and adapter as one model."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_option
from .output import progress


@click.command()
@click.option("--run", required=True, metavar="RUN", help="A run directory.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new model directory.")
@json_option
def fuse(run: str, out: Path, as_json: bool) -> None:
    """Merge an adapter into its base: a model directory for mlx-lm, transformers and what else reads safetensors.

    It is checked against the adapter; one that fails is kept aside as DIR.rejected, and the exit status is 1.

    \b
    mlx-lora fuse --run adapters/lumen --out models/lumen
    """
    from ..export.fuse import fuse as run_fuse
    from .export.report import announce, conclude

    with progress(f"{run} into its base", 100) as advance:
        report = run_fuse(run, out, lambda share: advance(round(100 * share)), announce)
    conclude(report, as_json)

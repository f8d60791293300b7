"""``mlx-lora experience stats``: the number, salience and dates of a buffer's experiences."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, print_table
from . import buffer_option


@click.command()
@buffer_option
@json_option
def stats(buffer: Path, as_json: bool) -> None:
    """Show how many experiences a buffer holds, how salient, and of when; reads it only."""
    from ...data.import_report import ImportReport
    from ...sources.salience import buffer_stats, read_buffers

    report = ImportReport("salience")
    found = buffer_stats(read_buffers([buffer], report))
    if as_json:
        print_json({"buffer": str(buffer), **found, "left_out": report.to_dict()["left_out"]})
        return
    rows = [
        (name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
        for name, value in {**found, **found.pop("dimension_averages", {})}.items()
        if not isinstance(value, dict)
    ]
    print_table(str(buffer), ("", ""), rows + [(f"unusable: {reason}", str(n)) for reason, n in report.counts.items()])

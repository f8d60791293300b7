"""``mlx-lora sleep report``: the page of a night."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, say


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.argument("cycle", required=False, metavar="[CYCLE]")
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@json_option
def report(name: Path, cycle: str | None, show: bool, as_json: bool) -> None:
    """Write the page of the last night, or of night CYCLE, again, and print its path; NAME is the adapter's directory.

    \b
    mlx-lora sleep report adapters/agent
    mlx-lora sleep report adapters/agent 7 --open
    """
    from ...sleep.record import CYCLES
    from ...sleep.reports.report import INDEX_FILE, find_adapter, last_cycle, write_report

    name = find_adapter(name)
    cycle = last_cycle(name) if cycle is None else f"{int(cycle):04d}" if cycle.isascii() and cycle.isdigit() else cycle
    page = write_report(name, cycle)
    if as_json:
        print_json({"cycle": cycle, "page": str(page), "index": str(name / CYCLES / INDEX_FILE)})
    else:
        say(str(page))
    if show:
        click.launch(page.absolute().as_uri())

"""``mlx-lora sleep history``: the log of an adapter's generations, and its chain."""

from __future__ import annotations

from typing import Any

import click

from ..options import json_option
from ..output import print_json, print_table, say


@click.command()
@click.argument("name")
@json_option
def history(name: str, as_json: bool) -> None:
    """Show what happened to the generations of NAME (adapters/agent, or agent), and check that the log is intact.

    A line that was changed or removed breaks the chain of hashes: it is named, with exit status 2.

    \b
    mlx-lora sleep history agent
    """
    from ...errors import UserError
    from ...runs.history import HISTORY, History
    from ...runs.names import find_generations

    generations = find_generations(name)
    found = History.read(generations.directory / HISTORY)
    if as_json:
        refs = generations.refs
        about = {"name": str(generations.directory), **refs.named(), "pinned": sorted(refs.pinned)}
        print_json({**about, "intact": found.broken is None, "history": found.lines})
    else:
        columns = ("", "time", "event", "generation", "live then", "cycle", "reason")
        print_table(str(generations.directory), columns, [_row(line) for line in found.lines])
        state = "broken" if found.broken else "intact"
        say(f"{generations.described()}; the chain of {len(found.lines)} lines is {state}")
    if found.broken:
        raise UserError(found.broken)


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    generation, live = line["generation"], line["refs"].get("live")
    return (
        str(line["number"]),
        str(line.get("time")),
        str(line.get("event")).replace("_", " "),
        "base" if generation is None else str(generation),
        "base" if live is None else str(live),
        str(line.get("cycle") or ""),
        str(line.get("reason") or ""),
    )

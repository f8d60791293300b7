"""``mlx-lora sleep status``: what is live, and how the last night ended."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, print_table


@click.command()
@click.argument("name", metavar="NAME", type=click.Path(path_type=Path))
@json_option
def status(name: Path, as_json: bool) -> None:
    """Say what is live, previous, best and on trial, when the next night is due, and how the last one ended.

    \b
    mlx-lora sleep status adapters/agent
    """
    from ...sleep.status import status_of

    found = status_of(name)
    if as_json:
        print_json(found)
        return
    last = found["last"]
    rows = [(ref, "–" if found[ref] is None else str(found[ref])) for ref in ("live", "previous", "best", "trial")]
    rows.append(("installed", found["installed"]["at"] if found["installed"] else "no: `mlx-lora sleep install`"))
    rows.append(("next night", found["next_due"] or "–"))
    rows.append(("last night", f"{last['cycle']}: {last['decision']}, {last['reason']}" if last else "none yet"))
    if last and (indexed := last.get("indexed")):
        for group in indexed["rows"]:
            rows.append(("indexed", f"{len(group['rows'])} of {group['store']}: {group['reason']}"))
    print_table(str(name), ("", ""), rows)

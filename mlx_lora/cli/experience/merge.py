"""``mlx-lora experience merge``: add to a buffer what other files have."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, say


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--into", type=click.Path(path_type=Path), required=True, help="The buffer to add to; made if absent.")
@json_option
def merge(files: tuple[Path, ...], into: Path, as_json: bool) -> None:
    """Add to a buffer what other files have and it lacks; it loses nothing, and may be in use meanwhile.

    \b
    mlx-lora experience merge old.json laptop.json --into buffer.json
    """
    from ...data.import_report import ImportReport
    from ...sources.salience import merge_buffers, read_buffers

    report = ImportReport("salience")
    records = read_buffers(files, report)
    added = len(merge_buffers(records, into))
    left_out = report.to_dict()["left_out"]
    known = len(records) - added
    if as_json:
        counts = {"read": report.read, "added": added, "already_there": known}
        print_json({"buffer": str(into), **counts, "left_out": left_out})
        return
    say(f"{into}: {added} experiences added, {known} were there already")
    for item in left_out:
        say(f"left out {item['count']}: {item['reason']} ({', '.join(item['examples'][:3])})")

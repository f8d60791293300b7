"""``mlx-lora index remove``: take documents out of an index."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, say
from . import index_option


@click.command()
@click.argument("document", required=False, type=click.Path(path_type=Path))
@index_option
@click.option("--collection", metavar="NAME", help="Remove this collection, or the document from it alone.")
@json_option
def remove(document: Path | None, directory: Path, collection: str | None, as_json: bool) -> None:
    """Remove DOCUMENT, or a whole collection, from an index; the files themselves stay.

    \b
    mlx-lora index remove --index index docs/old.md
    mlx-lora index remove --index index --collection daily_buffer
    """
    from ...retrieval.index import Index

    with Index.open(directory, create=False) as index:
        removed = index.remove(document, collection)
    if as_json:
        print_json({"index": str(directory), "removed": removed})
        return
    say(f"{directory}: {removed} documents removed")

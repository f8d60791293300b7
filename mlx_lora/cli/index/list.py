"""``mlx-lora index list``: the documents of an index."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, print_table
from . import index_option


@click.command("list")
@index_option
@click.option("--collection", metavar="NAME", help="List the documents of this collection; by default of all.")
@json_option
def list_documents(directory: Path, collection: str | None, as_json: bool) -> None:
    """Show an index's documents, with their number of chunks.

    \b
    mlx-lora index list --index index --collection components
    """
    from dataclasses import asdict

    from ...retrieval.index import Index

    with Index.open(directory, readonly=True) as index:
        found = index.list(collection)
    if as_json:
        print_json({"index": str(directory), "documents": [asdict(document) for document in found]})
        return
    title = f"{directory}: {len(found)} documents, {sum(document.chunks for document in found)} chunks"
    rows = [(document.collection, document.document, str(document.chunks)) for document in found]
    print_table(title, ("collection", "document", "chunks"), rows)

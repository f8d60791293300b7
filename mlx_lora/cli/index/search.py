"""``mlx-lora index search``: passages of an index."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, print_lines
from . import index_option


@click.command()
@click.argument("query")
@index_option
@click.option("-k", "k", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of passages.")
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="Search these; by default all.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Metadata that a passage or its document must have.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "text"]), default="hybrid", show_default=True)
@json_option
def search(
    query: str, directory: Path, k: int, collections: tuple[str, ...], where: tuple[str, ...], mode: str, as_json: bool
) -> None:
    """Find the passages that are most like QUERY.

    \b
    mlx-lora index search --index index "Why was task 18 corrected?" --where agent_role=Developer
    """
    from dataclasses import asdict

    from ...retrieval.index import Index
    from ...retrieval.where import parse_where

    with Index.open(directory, readonly=True) as index:
        hits = index.search(query, k, collections or None, parse_where(where), mode)
    if as_json:
        print_json({"index": str(directory), "query": query, "hits": [asdict(hit) for hit in hits]})
        return
    for number, hit in enumerate(hits, 1):
        place = f"{hit.document}:{hit.metadata['line']}"
        print_lines([f"{number}. {hit.score:.4f}  {place}  {hit.metadata['headings']}", hit.text.strip(), ""])

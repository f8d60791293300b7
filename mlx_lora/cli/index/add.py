"""``mlx-lora index add``: index files and directories."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..options import json_option
from ..output import print_json, print_warnings, progress, say
from . import index_option


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@index_option
@click.option("--collection", metavar="NAME", help="Collection of all; by default by each file's kind.")
@click.option("--embedder", metavar="NAME", help="Embedding model; another one than the index has embeds all again.")
@click.option("--chroma", type=click.Path(path_type=Path), help="Import this directory of Chroma (extra chroma).")
@json_option
def add(
    paths: tuple[Path, ...],
    directory: Path,
    collection: str | None,
    embedder: str | None,
    chroma: Path | None,
    as_json: bool,
) -> None:
    """Add files, and those of a known kind in directories; a changed file replaces its earlier state.

    A secret stops the import before anything is written; e-mail addresses are redacted. Without PATHS the vectors are
    brought up to date.

    \b
    mlx-lora index add --index index journal/ --collection pdca_historical
    """
    from ...errors import UserError
    from ...retrieval.chroma import import_chroma
    from ...retrieval.embedding import open_embedder
    from ...retrieval.index import Index

    if paths and chroma:
        raise UserError("give paths, or a directory of Chroma with --chroma, and not both")
    chosen = open_embedder(embedder) if embedder else None
    with Index.open(directory, embedder=chosen) as index, progress(f"indexing into {directory}", 100) as show:
        if chroma:
            added = import_chroma(index, chroma, collection)
        else:
            added = index.add(paths, collection, lambda done, total: show(100 * done // total))
    if as_json:
        refused = [{"file": file, "line": line, "reason": why} for file, line, why in added.refused]
        print_json({"index": str(directory), **asdict(added), "refused": refused})
        return
    where = [(f"{file}, line {line}" if line else file, why) for file, line, why in added.refused]
    print_warnings([f"{place}: {why}" for place, why in where])
    say(f"{directory}: {added.documents} documents added ({added.chunks} chunks), {added.unchanged} unchanged")

"""``mlx-lora index``: documents for retrieval; one command a file."""

from __future__ import annotations

from pathlib import Path

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "add": ("mlx_lora.cli.index.add", "add", "Add files and directories; what is unchanged is skipped."),
    "list": ("mlx_lora.cli.index.list", "list_documents", "Show the documents, or the collections."),
    "remove": ("mlx_lora.cli.index.remove", "remove", "Remove a document or a collection; the files themselves stay."),
    "search": ("mlx_lora.cli.index.search", "search", "Find passages by meaning and by words."),
}
index_option = click.option(
    "--index", "directory", type=click.Path(path_type=Path), required=True, help="Directory of the index; add makes it."
)


@click.group(cls=LazyGroup, lazy=COMMANDS)
def index() -> None:
    """Keep documents where a model can look them up: facts in an index, manners in the weights.

    \b
    mlx-lora index add --index index docs/ src/
    mlx-lora index search --index index "How is a run resumed?"
    """

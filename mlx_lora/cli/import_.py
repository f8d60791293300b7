"""``mlx-lora import``: an adapter from another program as a run, one command a format."""

from __future__ import annotations

import click

from .lazy_group import LazyGroup

COMMANDS = {
    "peft": ("mlx_lora.cli.export.peft", "import_peft", "An adapter of Hugging Face's PEFT."),
}


@click.group("import", cls=LazyGroup, lazy=COMMANDS)
def imports() -> None:
    """Make a run of an adapter that another program trained."""

"""``mlx-lora experience``: collect an agent's experience buffer, one module a command; safe with several writers."""

from __future__ import annotations

from pathlib import Path

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "add": ("mlx_lora.cli.experience.add", "add", "Score an exchange and store it if it is salient and new."),
    "merge": ("mlx_lora.cli.experience.merge", "merge", "Add to a buffer what other files have and it lacks."),
    "stats": ("mlx_lora.cli.experience.stats", "stats", "Show how many experiences a buffer holds, and how salient."),
}
buffer_option = click.option(
    "--buffer", type=click.Path(path_type=Path), required=True, help="The buffer, a JSON file; add makes it."
)


@click.group(cls=LazyGroup, lazy=COMMANDS)
def experience() -> None:
    """Collect what an agent should remember; `mlx-lora data salience` makes a dataset of it."""

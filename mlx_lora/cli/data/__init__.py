"""``mlx-lora data``: from a source to a dataset directory, one module a command."""

from __future__ import annotations

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "eisv": ("mlx_lora.cli.data.eisv", "eisv", "Lumen's EISV trajectories, real and synthetic."),
    "instructions": ("mlx_lora.cli.data.instructions", "instructions", "Instruction rows in any of their forms."),
    "claims": ("mlx_lora.cli.data.claims", "claims", "Scientific claims with citations (SciFact's schema)."),
    "check": ("mlx_lora.cli.data.check", "check", "What is wrong with a dataset: duplicates, leaks, secrets, ..."),
    "show": ("mlx_lora.cli.data.show", "show", "An example as the model sees it."),
    "salience": ("mlx_lora.cli.data.salience", "salience", "An agent's experiences, weighted by their salience."),
    "traces": ("mlx_lora.cli.data.traces", "traces", "An agent's accepted artifacts and how it got there."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def data() -> None:
    """Make a dataset: a directory of train, valid and test.jsonl, with a card that says what is in it."""

"""``mlx-lora sleep pin``: a generation that is never collected."""

from __future__ import annotations

import click

from ..options import json_option
from ..output import print_json, say


@click.command()
@click.argument("name")
@click.argument("generation", type=click.IntRange(1))
@click.option("--remove", is_flag=True, help="Let it be collected again when it is old.")
@json_option
def pin(name: str, generation: int, remove: bool, as_json: bool) -> None:
    """Keep GENERATION of NAME for ever; others are collected when they are old and no ref names them.

    \b
    mlx-lora sleep pin agent 7
    """
    from ...runs.names import find_generations

    generations = find_generations(name)
    if remove:
        generations.unpin(generation)
    else:
        generations.pin(generation)
    pinned = sorted(generations.pinned)
    if as_json:
        print_json({"name": str(generations.directory), "pinned": pinned})
    else:
        say(f"{generations.directory}: pinned: {', '.join(map(str, pinned)) or 'none'}")

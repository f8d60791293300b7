"""``mlx-lora sleep promote``: a generation made live by hand."""

from __future__ import annotations

import click

from ..options import json_option
from ..output import print_json, print_notes, say


@click.command()
@click.argument("name")
@click.argument("generation", type=click.IntRange(1))
@click.option("--reason", metavar="TEXT", default="by hand", show_default=True, help="For the history.")
@json_option
def promote(name: str, generation: int, reason: str, as_json: bool) -> None:
    """Make GENERATION of NAME live; one that is live and on trial is confirmed.

    \b
    mlx-lora sleep promote agent 7
    """
    from ...runs.names import find_generations
    from ...sleep.undo import promote as make_live

    generations = find_generations(name)
    print_notes(make_live(generations, generation, reason))
    if as_json:
        print_json({"name": str(generations.directory), **generations.refs.named(), "reason": reason})
    else:
        say(f"{generations.directory}: {generations.described()}")

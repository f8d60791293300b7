"""``mlx-lora sleep rollback``: back to an earlier generation, at once."""

from __future__ import annotations

import click

from ..options import json_option
from ..output import print_json, print_notes, say


@click.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(0), metavar="N", help="This generation; 0 is the base without an adapter.")
@click.option("--reason", metavar="TEXT", default="by hand", show_default=True, help="For the history.")
@json_option
def rollback(name: str, to: int | None, reason: str, as_json: bool) -> None:
    """Make the previous generation of NAME live again, or the base where there was none before.

    Nothing is deleted: `promote` makes what was undone live again.

    \b
    mlx-lora sleep rollback agent --reason "it answers in capitals"
    """
    from ...runs.names import find_generations
    from ...sleep.undo import roll_back

    generations = find_generations(name)
    before = generations.live
    number, notes = roll_back(generations, reason, to)
    print_notes(notes)
    if as_json:
        print_json({"name": str(generations.directory), "live": number, "before": before, "reason": reason})
    else:
        say(f"{generations.directory}: {_named(number)} is live, no longer {_named(before)}")


def _named(number: int | None) -> str:
    return "the base" if number is None else f"generation {number}"

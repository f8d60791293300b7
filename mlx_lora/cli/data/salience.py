"""``mlx-lora data salience``: an agent's experience buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import finite, json_option
from .summary import print_dataset

# The names of sources.salience.CHECKS, which --help shows without importing them; a test compares the two.
CHECKS = (
    *("cut", "think", "roles", "short", "repeated", "questions", "echo", "evasion", "stock-phrases"),
    *("near-duplicates", "pattern-cap"),
)
FILE = click.Path(path_type=Path)


@click.command()
@click.option("--buffer", "buffers", type=FILE, multiple=True, required=True, help="Experience buffer; repeatable.")
@click.option("--out", type=FILE, required=True, help="Directory to make; it must not exist.")
@click.option(
    "--min-salience",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    callback=finite,
    help="Total that an experience must have.",
)
@click.option("--max-examples", type=click.IntRange(1), help="Take the most salient ones only.")
@click.option("--system-prompt", type=FILE, help="Text file with what every conversation begins with.")
@click.option("--keep", type=click.Choice(CHECKS), multiple=True, help="Keep what this check leaves out; repeatable.")
@click.option(
    "--cut",
    type=click.Choice(["trim", "drop", "keep"]),
    default="trim",
    show_default=True,
    help="Answers cut off in the middle of a sentence: trim them to the last complete one (their end is not learned), "
    "leave them out, or keep them as they are.",
)
@click.option("--without-lora", is_flag=True, help="Leave out what an adapter wrote (metadata using_lora).")
@click.option(
    "--weights",
    type=click.Choice(["salience", "raw", "equal"]),
    default="salience",
    show_default=True,
    help="An example's weight: its salience divided by the mean, its salience as it is, or 1.",
)
@click.option(
    "--rescore", type=click.Choice(["word", "substring"]), help="Score anew, by whole words or parts of them."
)
@json_option
def salience(out: Path, buffers: tuple[Path, ...], keep: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Turn an agent's salient experiences into conversations, weighted by salience.

    \b
    mlx-lora data salience --buffer experience_buffer.json --out data/sleep
    mlx-lora data salience --buffer a.json --buffer b.json --out data/sleep --without-lora --cut drop
    """
    from ...sources.salience import Filters, make_dataset, read_system_prompt

    if options["system_prompt"] is not None:
        options["system_prompt"] = read_system_prompt(options["system_prompt"])
    filters = Filters(frozenset(keep), options.pop("without_lora"), cut=options.pop("cut"))
    print_dataset(make_dataset(out, buffers, filters=filters, **options), as_json)

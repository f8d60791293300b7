"""``mlx-lora data salience``: an agent's experience buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ..output import finite, json_option, print_json, print_table, say

# The names of sources.salience.CHECKS, which --help shows without importing them; a test compares the two.
CHECKS = (
    *("cut", "think", "roles", "short", "repeated", "questions", "echo", "evasion", "stock-phrases"),
    *("near-duplicates", "pattern-cap"),
)


@click.command()
@click.option(
    "--buffer",
    "buffers",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Experience buffer, read-only; may be given several times, and each experience counts once.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to make; it must not exist.")
@click.option(
    "--min-salience",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    callback=finite,
    help="Total that an experience must have.",
)
@click.option("--max-examples", type=click.IntRange(1), help="Take the most salient ones only.")
@click.option(
    "--system-prompt", type=click.Path(path_type=Path), help="Text file with what every conversation begins with."
)
@click.option(
    "--keep",
    type=click.Choice(CHECKS),
    multiple=True,
    help="Keep what this check would leave out; may be given several times.",
)
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
    "--rescore",
    type=click.Choice(["word", "substring"]),
    help="Score anew, counting whole words, or parts of words as old stores did; without it, stored scores are kept.",
)
@json_option
def salience(
    buffers: tuple[Path, ...],
    out: Path,
    min_salience: float,
    max_examples: int | None,
    system_prompt: Path | None,
    keep: tuple[str, ...],
    cut: Literal["trim", "drop", "keep"],
    without_lora: bool,
    weights: Literal["salience", "raw", "equal"],
    rescore: Literal["word", "substring"] | None,
    as_json: bool,
) -> None:
    """Turn an agent's salient experiences into conversations, weighted by salience.

    \b
    mlx-lora data salience --buffer experience_buffer.json --out data/sleep
    mlx-lora data salience --buffer a.json --buffer b.json --out data/sleep --without-lora --cut drop
    """
    from ...sources.salience import Filters, make_salience_dataset, read_system_prompt

    card = make_salience_dataset(
        out,
        buffers,
        min_salience=min_salience,
        max_examples=max_examples,
        system_prompt=None if system_prompt is None else read_system_prompt(system_prompt),
        filters=Filters(skip=frozenset(keep), without_lora=without_lora, cut=cut),
        weights=weights,
        rescore=rescore,
    )
    if as_json:
        print_json({"path": str(out), **card})
    else:
        print_summary(out, card)


def print_summary(out: Path, card: dict[str, Any]) -> None:
    """Print the rows read, left out or changed, the reasons, and the notes of a dataset."""
    report, counts = card["report"], card["counts"]
    rows = [(item["reason"], str(item["count"])) for item in report["left_out"]]
    title = f"{out}: {counts['examples']} examples from {counts['distinct']} experiences ({counts['read']} rows)"
    print_table(title, ("left out", "rows"), rows or [("nothing", "0")])
    say(", ".join(f"{name} {count}" for name, count in card["splits"].items()))
    for item in report.get("changed", ()):
        say(f"{item['count']} × {item['reason']}")
    for note in report["notes"]:
        say(note)
    say(f"Which ones, by name: {out / 'report.md'}")

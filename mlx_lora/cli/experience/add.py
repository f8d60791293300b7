"""``mlx-lora experience add``: score exchanges and store the salient ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import UserError
from ...user_files import read_standard_input
from ..options import finite, json_option
from ..output import print_json, print_lines
from . import buffer_option


@click.command()
@click.argument("source", required=False)
@buffer_option
@click.option("--prompt", help="What the agent was asked; - takes it from JSON on standard input.")
@click.option("--response", help="What it answered; - takes it from JSON on standard input.")
@click.option("--session", type=int, help="Number of the session.")
@click.option("--phase", help="Phase of the agent's curriculum.")
@click.option("--metadata", help='JSON object, such as \'{"machine": "den"}\'.')
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    callback=finite,
    help="Salience from which an exchange is stored.",
)
@json_option
def add(source: str | None, buffer: Path, threshold: float, as_json: bool, **options: Any) -> None:
    """Score an exchange and store it if it is salient and new.

    With - exchanges come from standard input, one JSON object a line, with the keys prompt and response, and
    session, phase, metadata and tool_calls if you like. Several programs may add to one buffer at the same time.

    \b
    mlx-lora experience add --buffer buffer.json --prompt "What did you notice?" --response "We found ..."
    my-agent | mlx-lora experience add --buffer buffer.json -
    """
    if source not in (None, "-"):
        raise UserError(f"{source}: exchanges come from --prompt and --response, or from standard input with -")
    from ...sources.salience.exchanges import add_exchanges, parse_exchanges, parse_object

    if options["metadata"] is not None:
        options["metadata"] = parse_object(options["metadata"], "--metadata")
    given = {key: value for key, value in options.items() if value not in (None, "-")}
    read = "-" in (source, options["prompt"], options["response"])
    exchanges = [{**row, **given} for row in parse_exchanges(read_standard_input())] if read else [given]
    results = add_exchanges(buffer, exchanges, threshold)
    if as_json:
        one = results[0] if len(results) == 1 and source is None else None
        whole = {"stored": sum(result["stored"] for result in results), "results": results}
        print_json({"buffer": str(buffer), **(one or whole)})
        return
    print_lines([_sentence(result, threshold) for result in results])


def _sentence(result: dict[str, Any], threshold: float) -> str:
    total = result["salience"]["total"]
    if result["stored"]:
        return f"stored as {result['experience_id']} (salience {total:.2f})"
    if result.get("filter_reason") == "already_stored":
        return f"not stored: this exchange is in the buffer already, as {result['experience_id']}"
    if result["filtered"]:
        return "not stored: its response repeats an earlier one"
    return f"not stored: its salience is {total:.2f}, below {threshold:g}"

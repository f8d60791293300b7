"""``mlx-lora smoke``: tests of a deployed model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import backend_option, finite, json_option
from .output import print_json, print_lines, print_notes, print_table, print_warnings, progress

INDEX = "Directory of the index; the history is looked up there, and examples of tool calls."


@click.command()
@click.argument("target", metavar="TARGET")
@click.option("--index", "directory", type=click.Path(path_type=Path), metavar="DIR", help=INDEX)
@click.option("--knowledge", metavar="PROMPT", help="Question of the knowledge test.")
@click.option("--expect", multiple=True, metavar="WORD", help="Word of its answer; by default constructor and init.")
@click.option("--history", metavar="PROMPT", help="Question of the history test.")
@click.option("--tool", metavar="PROMPT", help="Request of the tool test, which needs a call of read_file.")
@click.option("--ecosystem", metavar="NAME", help="Whose tools are named; continue by default.")
@click.option("--limit", "limits", multiple=True, metavar="TEST=SECONDS", help="In place of the published limit.")
@click.option("--max-load", type=click.FloatRange(0), callback=finite, metavar="S", help="Fail above this load time.")
@click.option(
    "--min-rate", type=click.FloatRange(0), callback=finite, metavar="N", help="Fail below N tokens a second."
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), callback=finite, help="Seconds for an answer.")
@backend_option
@json_option
def smoke(target: str, as_json: bool, **options: Any) -> None:
    """Test a deployed TARGET: knowledge, history, a tool call, load time and tokens a second.

    A run, a base, FILE.gguf, ollama:NAME, or http://HOST/v1#MODEL. Times and rates are the server's own where it
    counts them. Exit status: 0 passed, 1 a test failed, 2 could not run.

    \b
    mlx-lora smoke ollama:lumen --index index
    mlx-lora smoke http://127.0.0.1:8080/v1#lumen --limit knowledge=0.5 --min-rate 20
    """
    from ..retrieval.smoke import smoke_target
    from ..retrieval.smoke_tables import smoke_lines, smoke_table

    with progress("smoke tests", 3) as advance:
        report = smoke_target(target, advance=advance, notes=print_notes, warn=print_warnings, **options)
    if as_json:
        print_json(report.as_dict())
    else:
        print_table(*smoke_table(report))
        print_lines(smoke_lines(report))
    sys.exit(0 if report.passed else 1)

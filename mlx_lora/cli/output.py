"""Command output: tables and progress bars for people, one JSON object for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..errors import visible


def say(text: str, err: bool = False, **style: Any) -> None:
    """Print a text in ``click.secho``'s style; escape sequences in data that it quotes do not reach the terminal."""
    click.secho(visible(text), err=err, **style)


def print_json(content: Any) -> None:
    """Print one JSON object on standard output, and nothing else."""
    say(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(), Table()
    if title:
        # Above the table, not in it: rich would break it where the table ends. As Text: brackets are not markup.
        console.print(Text(visible(title), style="italic"), soft_wrap=True)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    console.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output."""
    for line in lines:
        say(line)


def print_notes(notes: Sequence[str]) -> None:
    """Print sentences about the machine or the model on standard error."""
    for note in notes:
        say(f"note: {note}", err=True)


def print_warnings(warnings: Sequence[str]) -> None:
    """Print warnings on standard error."""
    for warning in warnings:
        say(f"warning: {warning}", fg="yellow", err=True)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error; the block calls it with the amount done."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(visible(description)), total=total)
        yield lambda done: bar.update(task, completed=done)

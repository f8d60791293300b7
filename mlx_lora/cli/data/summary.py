"""Output of the data commands: the summary of a new dataset, and the progress of its checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..output import print_json, print_table, progress, say

if TYPE_CHECKING:
    from ...data.checks import Table
    from ...data.dataset_card import DatasetCard

# With fewer rows the check ends before a bar could be read.
MANY_ROWS = 2000


def print_dataset(card: DatasetCard, as_json: bool = False) -> None:
    """Print the card and the report of a new dataset, as one JSON object or as text."""
    if as_json:
        print_json({"path": str(card.path), **card.to_dict(), "report": card.report.to_dict()})
        return
    if card.table:
        print_table(*card.table)
    if card.left_out:
        print_table("Left out", ("reason", "count"), [(reason, str(n)) for reason, n in card.left_out.items()])
    for reason, names in card.report.changed.items():
        say(f"{len(names)} × {reason}")
    for note in card.notes:
        say(f"note: {note}")
    splits = ", ".join(f"{name} {count}" for name, count in card.splits.items())
    say(f"{card.path}: {card.summary}; {splits}; report.md names what was left out")


@contextmanager
def advancing(table: Table, quiet: bool) -> Iterator[None]:
    """Show the checks of a large table with a progress bar on standard error."""
    if quiet or table.rows < MANY_ROWS:
        yield
        return
    passes = 1 if table.tokenizer is None else 2  # once for near-duplicates, once for the template
    done = 0
    with progress(f"{table.rows:,} rows", passes * table.rows) as show:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            show(done)

        table.advance = advance
        yield

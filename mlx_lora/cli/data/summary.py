"""Summary of a new dataset: its table, rows left out or changed with the reasons, notes, and splits."""

from __future__ import annotations

from ...data.dataset_card import DatasetCard
from ..output import print_json, print_table, say


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
    say(f"{card.path}: {card.summary} ({splits}); report.md names what was left out")

"""R matrix of the nights: the score on night j's held-out rows after night i, and the loss where there is no check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ...reporting.heat_map import heat_map
from ...reporting.numbers import rounded
from ..night_record import Night, number_of

# Nights on one map; more of them are too many cells to compare.
MOST_NIGHTS = 40


@dataclass
class Matrix:
    """One map with its numbers as a table.

    Attributes:
        rows: (night, its values as text), for the table.
        older: nights that were left out.
    """

    title: str
    about: str
    drawn: Markup
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    older: int


def matrices(nights: Sequence[Night]) -> list[Matrix]:
    """Return the map of the scores, and that of the losses if a night has only a loss; rows are promoted nights."""
    learned = [night for night in nights if night.learned]
    scores, losses = (_read(learned, key) for key in ("scores", "losses"))
    scored = {column for row in scores for column in row}
    found = []
    if scored:
        about = "Share of the held-out answers that pass their check; 1 is all. Framed: the night itself."
        found.append(_matrix("Score", learned, scores, about, bounds=(0.0, 1.0)))
    if {column for row in losses for column in row} - scored:
        about = "Held-out loss in nats a token, less is better. Framed: the night itself."
        found.append(_matrix("Loss", learned, losses, about, unit="nats a token", lower_is_better=True))
    return found


def _read(nights: Sequence[Night], key: str) -> list[dict[str, float]]:
    return [{k: v for k, v in (night.judged.get(key) or {}).items() if v is not None} for night in nights]


def _matrix(
    title: str, nights: Sequence[Night], values: Sequence[dict[str, float]], about: str, **scale: Any
) -> Matrix:
    columns = sorted({column for row in values for column in row}, key=lambda name: (name.isdigit(), name))
    columns, shown = columns[-MOST_NIGHTS:], nights[-MOST_NIGHTS:]
    cells = [[row.get(column) for column in columns] for row in values[-MOST_NIGHTS:]]
    rows, names = [number_of(night.cycle) for night in shown], [number_of(column) for column in columns]
    drawn = heat_map(
        f"{title} on each night's held-out rows after each night",
        *(rows, names, cells),
        row_label="after",
        column_label="on the held-out rows of night",
        **scale,
    )
    table = [(name, [rounded(value) for value in row]) for name, row in zip(rows, cells, strict=True)]
    return Matrix(title, about, drawn, names, table, len(nights) - len(shown))

"""Rows that are there more than once, letter by letter or nearly."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Hit
from .near import LEAST, jaccard, nearest_before, triples
from .table import Item, Table

# Above this share of copies, and this number, a dataset is not what its size says.
MOSTLY, MANY = 0.5, 100


def exact(table: Table) -> Iterator[Hit]:
    """Rows of one split whose conversation is another's, but for white space; the first is not counted."""
    first: dict[tuple[str, str, str], Item] = {}
    for item in table.items:
        kept = first.setdefault((item.split, *item.pair), item)
        if kept is not item:
            yield Hit(f"{item.where}: the same as {kept.where}", [item])


def mostly_copies(table: Table) -> Iterator[Hit]:
    """One hit a copy, where more than half of the training rows (and more than a hundred) are copies."""
    copies = [hit for hit in exact(table) if hit.drop[0].trained]
    if len(copies) > max(MANY, MOSTLY * len(table.trained)):
        yield from copies


def near(table: Table) -> Iterator[Hit]:
    """Rows that nearly repeat an earlier one of their side, answer included; exact copies are not counted again."""
    for item, other, similarity in _near(table):
        if (item.split == "train") == (other.split == "train"):
            yield Hit(f"{item.where}: {similarity:.0%} the same as {other.where}", [item])


def near_leaks(table: Table) -> Iterator[Hit]:
    """Evaluation rows that nearly repeat a training row; ``--fix`` leaves out the training row."""
    for item, other, similarity in _near(table):
        if item.split != "train" and other.trained:
            yield Hit(f"{item.where}: {similarity:.0%} the same as {other.where}, which is trained on", [other])


def _near(table: Table) -> list[tuple[Item, Item, float]]:
    """(item, an earlier one, their similarity); training rows come before all others. Computed once a table."""
    if "near" not in table.shared:
        distinct: dict[tuple[str, str], Item] = {}
        for item in [*table.trained, *table.held_out]:
            distinct.setdefault(item.pair, item)
        items = list(distinct.values())

        def same_answer(i: int, j: int) -> bool:
            # Two long prompts that differ in a word, one answered yes and one no, are both worth having.
            return jaccard(set(triples(items[i].answer)), set(triples(items[j].answer))) >= LEAST

        found = nearest_before([item.text for item in items], same_answer, table.advance)
        table.shared["near"] = [(items[i], items[j], similarity) for i, j, similarity in found]
    return table.shared["near"]

"""Checks of duplicates: exact copies and near-duplicates, within a split and across splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import shortened
from ..dedup import near_pairs
from .base import Hit
from .dataset_table import Item, Table
from .substitution import renamed_pairs, tokens

# Above this share of copies, and this number, the dataset's size is misleading.
MOSTLY, MANY = 0.5, 100
# A prompt with more words of its own than this may ask something else, however much text it shares.
OWN_WORDS = 3


def exact(table: Table) -> Iterator[Hit]:
    """Yield rows of one split whose conversation, up to white space, is another's; the first is not counted."""
    first: dict[tuple[str, str, str], Item] = {}
    for item in table.items:
        kept = first.setdefault((item.split, *item.pair), item)
        if kept is not item:
            yield Hit(f"{item.where}: the same as {kept.where}", [item])


def mostly_copies(table: Table) -> Iterator[Hit]:
    """Yield one hit for each copy, where more than half of the training rows (and more than a hundred) are copies."""
    copies = [hit for hit in exact(table) if hit.drop[0].trained]
    if len(copies) > max(MANY, MOSTLY * len(table.trained)):
        yield from copies


@dataclass
class NearPair:
    """A row and an earlier one that it nearly repeats; training rows come before all others.

    Attributes:
        similarity: of the prompts or of the answers, whichever is less.
        names: the row's name and the earlier one's, if they differ in nothing else.
        spare: nothing is lost without one of the two rows, so ``--fix`` leaves one out.
    """

    item: Item
    other: Item
    similarity: float
    names: tuple[str, str] | None = None
    spare: bool = False

    @property
    def said(self) -> str:
        """The similarity in words."""
        if self.names is None:
            return f"{self.item.where}: {self.similarity:.0%} the same as {self.other.where}"
        name, other = map(shortened, self.names)
        return f"{self.item.where}: the same as {self.other.where}, but for {name} where that has {other}"


def near(table: Table) -> Iterator[Hit]:
    """Yield rows that nearly repeat an earlier one of their side, answer included; exact copies are not counted."""
    seen = set()
    for pair in _near(table):
        if (pair.item.split == "train") == (pair.other.split == "train") and id(pair.item) not in seen:
            seen.add(id(pair.item))
            yield Hit(pair.said, [pair.item] if pair.spare else [])


def near_leaks(table: Table) -> Iterator[Hit]:
    """Yield evaluation rows that nearly repeat a training row; ``--fix`` leaves out the training row."""
    seen = set()
    for pair in _near(table):
        if pair.item.split != "train" and pair.other.trained and id(pair.item) not in seen:
            seen.add(id(pair.item))
            yield Hit(f"{pair.said}, which is trained on", [pair.other] if pair.spare else [])


def _near(table: Table) -> list[NearPair]:
    """Return all pairs in the order of rows, a row's most similar first; computed once for each table."""
    if "near" not in table.shared:
        distinct: dict[tuple[str, str], Item] = {}
        for item in [*table.trained, *table.held_out]:
            distinct.setdefault(item.pair, item)
        items = list(distinct.values())
        rows = [(item.question, item.answer) for item in items]
        pairs = [
            (i, j, NearPair(items[i], items[j], similarity, spare=_spare(items[i], items[j])))
            for i, j, similarity in near_pairs(rows, table.advance)
        ]
        similar = {(i, j) for i, j, _ in pairs}
        for i, j, name, other in renamed_pairs(rows):
            if (i, j) not in similar:
                pairs.append((i, j, NearPair(items[i], items[j], 0.0, (name, other))))
        pairs.sort(key=lambda pair: (pair[0], -pair[2].similarity, pair[1]))
        table.shared["near"] = [pair for _, _, pair in pairs]
    return table.shared["near"]


def _spare(item: Item, other: Item) -> bool:
    """Return True if the prompts ask the same: few words differ, and the answers do not differ by the same words."""
    asked, asked_before = _vocabulary(item.prompt), _vocabulary(other.prompt)
    said, said_before = _vocabulary(item.answer), _vocabulary(other.answer)
    own, others = asked - asked_before, asked_before - asked
    few = max(len(own), len(others)) <= OWN_WORDS
    return few and not own & (said - said_before) and not others & (said_before - said)


def _vocabulary(text: str) -> set[str]:
    return {token for token in tokens(text.lower()) if token[0].isalnum()}

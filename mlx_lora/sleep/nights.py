"""Nights of an adapter: what the live generation has learned from, and what was tried in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.dataset import Example, read_split
from ..runs.incremental_state import ROUNDS, item_id, read_state, state_path
from .record import CycleRecord

DATA = "data"


@dataclass
class Nights:
    """Nights before this one.

    Attributes:
        learned: key → dataset directory of each night that the live generation descends from, in order; rounds of
            ``train --increment`` too.
        trained: ids of their examples, held-out ones included.
        looked_up: ids of the rows that were indexed instead of learned, or refused by the index, whatever became of
            their night.
        sides: id of an example, or what must be on one side with it (``sleep_group``) → True if it was held out.
        failed: id → nights with it whose candidate failed, or whose generation was rolled back.
    """

    learned: dict[str, Path] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    looked_up: set[str] = field(default_factory=set)
    sides: dict[str, bool] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)


def read_nights(directory: Path, cycles: Sequence[CycleRecord], live: int | None) -> Nights:
    """Return the nights before a new one.

    Args:
        cycles: of the adapter, those that have ended.
        live: the live generation.
    """
    nights = Nights()
    lineage = _lineage(cycles, live)
    if live is not None:
        for place in sorted((directory / ROUNDS).glob("[0-9]" * 4)):
            if (place / DATA).is_dir():
                nights.learned[f"round-{place.name}"] = place / DATA
        nights.trained |= read_state(state_path(directory)).trained
    for cycle in cycles:
        nights.looked_up |= looked_up_in(cycle)
        data = cycle.directory / DATA
        if not data.is_dir():
            continue
        sides, ids = _sides(data)
        # The first side counts, whatever came later.
        nights.sides = {**sides, **nights.sides}
        if cycle.key in lineage:
            nights.learned[cycle.key] = data
            nights.trained |= ids
        elif cycle.content["decision"] in ("failed", "promoted") and cycle.content.get("could_run", True):
            nights.failed.update(ids)
    return nights


def looked_up_in(cycle: CycleRecord) -> set[str]:
    """Return the ids of the rows that a night has indexed instead of learned, or that the index refused."""
    return set((cycle.result("index") or {}).get("ids") or ())


def rows_of(data: Path, split: str) -> list[Example]:
    """Return the examples of a split of a night, which may have none."""
    file = data / f"{split}.jsonl"
    return read_split(data, split) if file.exists() and file.stat().st_size else []


def id_of(example: Example) -> str:
    """Return the id of an example of a night."""
    known = example.meta.get("sleep_id")
    return known if isinstance(known, str) else item_id(example)


def evidence(cycles: Sequence[CycleRecord], live: int | None) -> list[dict[str, Any]]:
    """Return the pairs of earlier candidates that were judged beside the same live generation and not promoted.

    Those that were worse too: with the undecided ones alone, the pool would be of the lucky.
    """
    found = []
    for cycle in cycles:
        judged = cycle.result("judge")
        if judged is None or cycle.content["parent"] != live or judged["chosen"] is not None:
            continue
        if judged["candidates"] and (pairs := judged["candidates"][0]["pairs"]):
            found.append(pairs)
    return found


def _lineage(cycles: Sequence[CycleRecord], live: int | None) -> set[str]:
    """Return the keys of the cycles that made the live generation and its ancestors."""
    makers = {cycle.content["generation"]: cycle for cycle in cycles if cycle.content["generation"] is not None}
    keys: set[str] = set()
    while live is not None and live in makers and makers[live].key not in keys:
        keys.add(makers[live].key)
        live = makers[live].content["parent"]
    return keys


def _sides(data: Path) -> tuple[dict[str, bool], set[str]]:
    """Return the sides of a night's examples and of their groups, and the ids."""
    sides: dict[str, bool] = {}
    ids: set[str] = set()
    for split in ("train", "valid"):
        for example in rows_of(data, split):
            ids.add(id_of(example))
            for key in (id_of(example), example.meta.get("sleep_group")):
                if isinstance(key, str):
                    sides.setdefault(key, split == "valid")
    return sides, ids

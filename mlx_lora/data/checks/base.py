"""A check, what it hits, and the finding that is made of its hits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .dataset_table import Item, Table

Severity = Literal["error", "warning"]
# Hits that a finding names; its count goes on.
NAMED = 20


@dataclass
class Hit:
    """One thing found.

    Attributes:
        said: what, with file and line.
        drop: the rows that ``--fix`` leaves out for it.
    """

    said: str
    drop: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        severity: an ``error`` stops training unless the config waives the check by name.
        means: what it finds, in a few words.
        find: its hits in a dataset.
        needs: ``base`` or ``plan``: what must be given for it to run.
        slow: too slow to run before every training.
        final: training refuses such a row by itself, in words of its own, so that there is nothing to waive.
        unfixable: why ``--fix`` cannot remove an error, and what to do instead; empty where it drops the rows.
    """

    name: str
    severity: Severity
    means: str
    find: Callable[[Table], Iterable[Hit]]
    needs: Literal["", "base", "plan"] = ""
    slow: bool = False
    final: bool = False
    unfixable: str = ""


@dataclass
class Finding:
    """What a check found.

    Attributes:
        examples: the first hits, each with file and line.
        means, unfixable: the check's.
        hits: all of them.
    """

    check: str
    severity: Severity
    count: int
    examples: list[str]
    means: str = ""
    unfixable: str = ""
    hits: list[Hit] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {"check": self.check, "severity": self.severity, "count": self.count, "examples": self.examples}


def run_check(check: Check, table: Table) -> Finding | None:
    """The check's finding, or ``None`` if there is none."""
    hits = list(check.find(table))
    if not hits:
        return None
    said = [hit.said for hit in hits[:NAMED]]
    return Finding(check.name, check.severity, len(hits), said, check.means, check.unfixable, hits)

"""Check, hit and finding: the types that every data check shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .dataset_table import Item, Table

Severity = Literal["error", "warning"]
# Hits that a finding names; the count includes the rest.
NAMED = 20


@dataclass
class Hit:
    """A single hit of a check.

    Attributes:
        said: the problem, with file and line.
        drop: the rows that ``--fix`` leaves out for it.
    """

    said: str
    drop: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class DataCheck:
    """One check.

    Attributes:
        severity: an ``error`` stops training unless the config waives the check by name.
        means: the problem it finds, in a few words.
        find: its hits in a dataset.
        needs: ``base`` or ``plan``: the input without which it cannot run.
        slow: too slow to run before every training.
        final: training refuses such a row by itself, with its own error, so that there is nothing to waive.
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
class DataFinding:
    """The result of a check.

    Attributes:
        examples: the first hits, each with file and line.
        means, unfixable: the check's own.
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
        """Return the finding as ``--json`` prints it."""
        return {"check": self.check, "severity": self.severity, "count": self.count, "examples": self.examples}


def run_check(check: DataCheck, table: Table) -> DataFinding | None:
    """Return the check's finding, or ``None`` if there are no hits."""
    hits = list(check.find(table))
    if not hits:
        return None
    said = [hit.said for hit in hits[:NAMED]]
    return DataFinding(check.name, check.severity, len(hits), said, check.means, check.unfixable, hits)

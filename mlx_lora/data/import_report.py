"""Import report: items read, left out or changed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

# Names of each reason in the Markdown report.
NAMED = 20
# Names kept of each reason; further ones are only counted, so that memory stays bounded.
KEPT = 1_000_000


class NothingLeft(UserError):
    """The error that a store can be read and gives no example; the night goes on without it.

    Attributes:
        report: of the import, with everything that was left out.
    """

    def __init__(self, said: str, report: ImportReport) -> None:
        super().__init__(said)
        self.report = report


@dataclass
class ImportReport:
    """The report of one import.

    Attributes:
        source: the source's name.
        read: items found in the stores.
        kept: examples made of them.
        left_out: reason -> names of the items left out for it ...
        counts: ... and how many there were.
        notes: further remarks for the user, a sentence each.
        changed: reason -> names of examples that were modified.
    """

    source: str
    read: int = 0
    kept: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reasons(self) -> str:
        """Reasons of what was left out with their counts, for the error that nothing is left."""
        return "; ".join(f"{count} × {reason}" for reason, count in self.counts.items()) or "the files are empty"

    def leave_out(self, reason: str, name: str) -> None:
        """Count an item that was left out; ``name`` lets the user find it."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        named = self.left_out.setdefault(reason, [])
        if len(named) < KEPT:
            named.append(name)

    def change(self, reason: str, name: str) -> None:
        """Record an example that was kept but modified."""
        self.changed.setdefault(reason, []).append(name)

    def to_dict(self, every: bool = False) -> dict[str, Any]:
        """Return the report as ``--json`` prints it; with ``every``, each reason has all of its names in ``rows``.

        ``examples`` are the first names, at most :data:`NAMED`.
        """
        report: dict[str, Any] = {"source": self.source, "read": self.read, "kept": self.kept}
        report["left_out"] = _reasons(self.left_out, self.counts, every)
        if self.changed:
            report["changed"] = _reasons(
                self.changed, {reason: len(names) for reason, names in self.changed.items()}, every
            )
        return {**report, "notes": self.notes}

    def to_markdown(self) -> str:
        """Return the report as Markdown, the first names of each reason."""
        lines = [f"# Import of {self.source}", "", f"{self.read} items came in, {self.kept} became examples.", ""]
        for reason, count in self.counts.items():
            lines += _section(f"Left out: {reason}", count, self.left_out[reason])
        for reason, names in self.changed.items():
            lines += _section(f"Changed: {reason}", len(names), names)
        lines += [f"{note}\n" for note in self.notes]
        return "\n".join(lines)


def _reasons(named: Mapping[str, Sequence[str]], counts: Mapping[str, int], every: bool) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "count": count, "examples": list(named[reason][:NAMED])}
        | ({"rows": list(named[reason])} if every else {})
        for reason, count in counts.items()
    ]


def _section(title: str, count: int, names: Sequence[str]) -> list[str]:
    lines = [f"## {title} ({count})", "", *(f"- {name}" for name in names[:NAMED])]
    where = "all of them" if count == len(names) else f"the first {len(names)} of all"
    return [*lines, *[f"- … and {count - NAMED} more, {where} in report.json"] * (count > NAMED), ""]

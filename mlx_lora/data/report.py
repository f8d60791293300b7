"""What came into a dataset, what was left out, and why: every omission is counted and named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Names kept for each reason; the count goes on.
NAMED = 20


@dataclass
class ImportReport:
    """The account of one import.

    Attributes:
        source: the source's name.
        read: items found in the stores.
        kept: examples made of them.
        left_out: reason -> names of what was left out for it (the first ones) ...
        counts: ... and how many there were.
        notes: what else a person should know, a sentence each.
    """

    source: str
    read: int = 0
    kept: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        """Count an item that was left out; ``name`` lets a person find it."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        named = self.left_out.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(name)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints and ``report.json`` holds."""
        left_out = [
            {"reason": reason, "count": count, "examples": self.left_out[reason]}
            for reason, count in self.counts.items()
        ]
        return {"source": self.source, "read": self.read, "kept": self.kept, "left_out": left_out, "notes": self.notes}

    def to_markdown(self) -> str:
        """The same for a person."""
        lines = [f"# Import of {self.source}", "", f"{self.read} items came in, {self.kept} became examples.", ""]
        for reason, count in self.counts.items():
            lines += [f"## Left out: {reason} ({count})", ""]
            lines += [f"- {name}" for name in self.left_out[reason]]
            lines += [f"- … and {count - NAMED} more"] * (count > NAMED) + [""]
        lines += [f"{note}\n" for note in self.notes]
        return "\n".join(lines)

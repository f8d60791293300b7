"""Report of data checks: the findings, notes on the base, and what a cleaned copy holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chat_template import merge_note
from .base import DataFinding
from .cleaning import write_fixed
from .dataset_table import Table
from .registry import check_table, unfixable

# Examples of each finding as text; to_dict has more.
SHOWN = 3


@dataclass
class CheckReport:
    """Result of all checks of a dataset.

    Attributes:
        notes: on the base and on the handling of system prompts, a sentence each.
        fixed: counts of the cleaned copy, and the names of the errors that it keeps.
    """

    rows: int
    distinct: int
    findings: list[DataFinding]
    notes: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        """Names of the checks of severity error that found something."""
        return [finding.check for finding in self.findings if finding.severity == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as ``data check --json`` prints it."""
        findings = [finding.to_dict() for finding in self.findings]
        report = {"rows": self.rows, "distinct_rows": self.distinct, "findings": findings, "notes": self.notes}
        return {**report, "fixed": self.fixed} if self.fixed else report

    def lines(self) -> Iterator[str]:
        """Yield the report as text, the table of the findings aside."""
        for finding in self.findings:
            yield f"{finding.check}:"
            yield from (f"  {example}" for example in finding.examples[:SHOWN])
            if finding.count > SHOWN:
                yield f"  ... and {finding.count - SHOWN:,} more"
        yield f"{self.rows:,} rows, {self.distinct:,} of them distinct"
        if self.fixed:
            yield from self._of_copy()
        elif self.errors:
            yield f"errors, which stop training: {', '.join(self.errors)}"
        else:
            yield "no error was found"
        yield from (f"note: {note}" for note in self.notes)

    def _of_copy(self) -> Iterator[str]:
        kept, dropped = self.fixed["kept"], self.fixed["dropped"]
        yield f"{self.fixed['path']}: {kept:,} rows kept, {dropped:,} left out (fixed.jsonl says why)"
        if self.fixed["stripped"]:
            yield f"control tokens were taken out of {self.fixed['stripped']:,} rows"
        for finding in unfixable(self.findings):
            yield f"{finding.check} stays, and stops training: --fix does not help, since {finding.unfixable}"


def check_dataset(table: Table, fix: Path | None = None, strip: bool = False) -> CheckReport:
    """Run all checks; with ``fix``, write a cleaned copy there, with ``strip`` without control tokens."""
    findings = check_table(table)
    report = CheckReport(table.rows, table.distinct, findings, _notes(table))
    if fix is not None:
        remaining = [finding.check for finding in unfixable(findings)]
        report.fixed = {"path": str(fix), **write_fixed(fix, table, findings, strip), "remaining": remaining}
    return report


def _notes(table: Table) -> list[str]:
    if table.tokenizer is None:
        return []
    systems = any(message["role"] == "system" for item in table.items for message in item.row.messages)
    merged = merge_note(table.tokenizer) if systems else None
    return [*table.tokenizer.base_facts.notes, *([merged] if merged else [])]

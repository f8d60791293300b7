"""Export report: the checks as a table or JSON, and status 1 where one failed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..output import print_json, print_table, say

if TYPE_CHECKING:
    from ...export.resources import Step
    from ...export.verification import ExportReport


def conclude(report: ExportReport, as_json: bool) -> None:
    """Print a report and its verdict; a rejected one ends the command with status 1."""
    for note in report.notes:
        say(f"note: {note}", err=as_json)
    if as_json:
        print_json(report.to_dict())
    else:
        rows = [(str(c.name), _words(c.value), _words(c.limit), "yes" if c.passed else "NO") for c in report.checks]
        print_table(report.file, ("checked", "found", "asked for", "passed"), rows)
        size = "" if report.verdict == "verified" else "; it was put aside and nothing has its name"
        say(f"{report.file}: {report.verdict}{size}")
    if report.verdict == "rejected":
        failed = ", ".join(check.name for check in report.checks if not check.passed)
        say(f"mlx-lora: {report.file}: rejected ({failed})", err=True)
        sys.exit(1)


def announce(steps: list[Step]) -> None:
    """Print on standard error what each step will take."""
    for step in steps:
        say(f"plan: {step.name}: {step.memory / 1e9:.2f} GB of memory, {step.disk / 1e9:.2f} GB on disk", err=True)


def _words(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value

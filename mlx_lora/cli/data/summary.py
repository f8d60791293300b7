"""Summary of an import: rows read, rows left out with the reasons, and notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.import_report import ImportReport
from ..output import print_json, print_table, say


def print_import(out: Path, card: dict[str, Any], report: ImportReport, as_json: bool) -> None:
    """Print the card and the report of a new dataset, as one JSON object or as text."""
    if as_json:
        print_json({"path": str(out), **card, "report": report.to_dict()})
        return
    if report.counts:
        print_table("Left out", ("reason", "count"), [(reason, str(n)) for reason, n in report.counts.items()])
    for note in report.notes:
        say(f"note: {note}")
    splits = ", ".join(f"{name} {count}" for name, count in card["splits"].items())
    say(f"{out}: {report.kept} examples of {report.read} rows ({splits}); report.md names what was left out")

"""Dataset card: what a source wrote, in one shape for every source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .dataset import Example, write_dataset
from .import_report import ImportReport


@dataclass
class DatasetCard:
    """Description of a dataset directory that a source has written.

    Attributes:
        source: the source's name.
        splits: number of examples of each split.
        counts: the source's counts of what it read and made.
        details: its own settings and findings.
        sha256: of each split's file.
        format: version of ``card.json``.
        report: items read, left out or changed with the reasons, and notes; ``report.json`` and ``report.md``.
        summary: number of examples and their origin, in words.
        table: title, columns and rows of what is worth showing of the counts.
    """

    path: Path
    source: str
    splits: dict[str, int]
    counts: dict[str, Any]
    details: dict[str, Any]
    sha256: dict[str, str]
    format: int
    report: ImportReport
    summary: str
    table: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = field(default=None, repr=False)

    @property
    def left_out(self) -> dict[str, int]:
        """Number of items left out, by reason."""
        return self.report.counts

    @property
    def notes(self) -> list[str]:
        """Notes and warnings for the user, a sentence each."""
        return self.report.notes

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``card.json``."""
        head = {"format": self.format, "source": self.source, "counts": self.counts}
        return {**head, **self.details, "splits": self.splits, "sha256": self.sha256}


def write_card(
    out: str | Path,
    splits: Mapping[str, Sequence[Example]],
    report: ImportReport,
    counts: dict[str, Any],
    details: dict[str, Any],
    summary: str | None = None,
    table: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None,
) -> DatasetCard:
    """Write a new dataset directory with its card and import report, and return the card.

    Raises:
        UserError: see :func:`~mlx_lora.data.dataset.write_dataset`.
    """
    report.kept = sum(map(len, splits.values()))
    written = write_dataset(out, splits, {"source": report.source, "counts": counts, **details}, report)
    return DatasetCard(
        *(Path(out), report.source, written["splits"], counts, details, written["sha256"], written["format"], report),
        summary=summary or f"{report.kept} examples of {report.read} rows",
        table=table,
    )

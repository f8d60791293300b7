"""Export verification: checks, their report, and the file's fate (published if verified, else set aside)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import fsync_path, remove_any, temporary_beside, writing
from .resources import Step


@dataclass
class ExportCheck:
    """Result of one check.

    Attributes:
        name: description of the measured quantity.
        value: measured value, a number or text.
        limit: required value, a number (``value`` may be at most or at least that) or text.
    """

    name: str
    value: float | int | str
    limit: float | int | str
    passed: bool


def at_most(name: str, value: float, limit: float) -> ExportCheck:
    """Check that a number is not above its limit; NaN fails."""
    return ExportCheck(name, _finite(value), limit, bool(value <= limit))


def at_least(name: str, value: float, limit: float) -> ExportCheck:
    """Check that a number is not below its limit; NaN fails."""
    return ExportCheck(name, _finite(value), limit, bool(value >= limit))


def equal(name: str, value: Any, expected: Any) -> ExportCheck:
    """Check that two values are equal."""
    return ExportCheck(name, value, expected, value == expected)


def _finite(value: float) -> float | str:
    value = float(value)
    return value if value == value and abs(value) != float("inf") else str(value)  # JSON has no NaN


@dataclass
class ExportReport:
    """Report of an export.

    Attributes:
        file: path of the result: under its name, or set aside if it was rejected.
        notes: notes for the user, a sentence each.
        plan: estimated memory and disk of each step, if they were estimated.
    """

    file: str
    checks: list[ExportCheck]
    notes: list[str] = field(default_factory=list)
    plan: list[Step] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Verdict: "verified" if every check passed, else "rejected"."""
        return "verified" if all(check.passed for check in self.checks) else "rejected"

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"file", "checks": [{"name", "value", "limit", "passed"}], "verdict"}``, and any ``"plan"``."""
        content = {"file": self.file, "checks": [asdict(check) for check in self.checks], "verdict": self.verdict}
        return {**content, "plan": [step.to_dict() for step in self.plan]} if self.plan else content


def refuse_existing(path: Path) -> None:
    """Raise UserError if the path exists: an export never overwrites."""
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: this exists already; choose another name, or remove it first")


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` (file or directory), removed unless :func:`publish_or_reject` moved it.

    Raises:
        UserError: ``path`` exists already, or the file system refuses.
    """
    path = Path(path)
    refuse_existing(path)
    # The suffix is kept: some programs depend on it.
    temporary = temporary_beside(path, keep_suffix=True)
    remove_any(temporary)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
        finally:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def publish_or_reject(
    temporary: Path,
    path: str | Path,
    checks: list[ExportCheck],
    notes: Sequence[str] = (),
    plan: Sequence[Step] = (),
) -> ExportReport:
    """Publish a file (or directory) under its name if every check passed, else set it aside as ``<name>.rejected``.

    Raises:
        UserError: the name is taken by now, or the file system refuses.
    """
    path = Path(path)
    report = ExportReport(str(path), checks, [*notes], [*plan])
    place = path if report.verdict == "verified" else _aside(path)
    report.file = str(place)
    with writing(place):
        for file in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
            fsync_path(file)
        refuse_existing(place)
        os.rename(temporary, place)
        fsync_path(place.parent)
    return report


def _aside(path: Path) -> Path:
    """Return ``<path>.rejected``, or with a number if that is taken."""
    place, number = path.with_name(f"{path.name}.rejected"), 1
    while place.exists() or place.is_symlink():
        number += 1
        place = path.with_name(f"{path.name}.rejected-{number}")
    return place


def check_space(path: str | Path, needed: int) -> None:
    """Raise UserError if the disk of ``path`` has fewer than ``needed`` bytes free."""
    directory = Path(path).absolute().parent
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"{path}: this needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "free some space or choose another place"
        )

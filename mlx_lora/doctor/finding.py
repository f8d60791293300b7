"""Doctor findings: the report on one subject."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import first_line

OK, MISSING, NOTE = "ok", "missing", "note"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: the subject.
        state: ``ok``, ``missing`` (absent or broken), or ``note`` (works, but worth knowing).
        found: the result, in words.
        advice: the recommended action; empty where there is none.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def kind_and_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, short enough for a table."""
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def gigabytes(size: float) -> str:
    """Return bytes as text, in the unit of all our reports."""
    return f"{size / 1e9:.1f} GB"

"""What the doctor says of one subject."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import first_line

OK, MISSING, NOTE = "ok", "missing", "note"


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        name: the subject.
        state: ``ok``, ``missing`` (not there, or broken), or ``note`` (it works, but should be known).
        found: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def kind_and_line(error: BaseException) -> str:
    """An error's kind and the first line of its message: what fits into a table."""
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def gigabytes(size: float) -> str:
    """Bytes for people, in the unit of all our reports."""
    return f"{size / 1e9:.1f} GB"

"""Record of a night as its reports read it: ``cycle.json`` with missing steps and keys, and the words for its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import check_format
from ..user_files import read_text
from .record import CYCLES, RECORD

FRACTIONS = {0.75: "¾", 0.5: "½", 0.25: "¼"}


@dataclass
class Night:
    """One night: the content of its ``cycle.json``, ``{}`` where nothing could be read.

    Attributes:
        directory: of the cycle, ``NAME/cycles/0007``.
        unreadable: the reason that the content is missing.
    """

    directory: Path
    content: dict[str, Any] = field(default_factory=dict)
    unreadable: str | None = None

    @property
    def cycle(self) -> str:
        """Name of the cycle, such as ``0007``."""
        return self.directory.name

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Steps in the order in which they began; the last may not have ended."""
        current = self.content.get("current")
        ended = [step for step in self.content.get("steps") or [] if isinstance(step, dict)]
        return [*ended, current] if isinstance(current, dict) else ended

    def result(self, step: str) -> dict[str, Any]:
        """Return the result of a step, ``{}`` if it did not end."""
        found = [each.get("result") for each in self.steps if each.get("step") == step]
        return found[-1] if found and isinstance(found[-1], dict) else {}

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Candidates that were judged: the trained adapter, then milder ones."""
        return self.result("judge").get("candidates") or []

    @property
    def judged(self) -> dict[str, Any]:
        """Candidate that was chosen, else the trained adapter, ``{}`` before judging."""
        chosen = self.result("judge").get("chosen")
        return next((c for c in self.candidates if c.get("alpha") == chosen), next(iter(self.candidates), {}))

    @property
    def rolled_back(self) -> bool:
        """True if the generation failed its trial."""
        return self.result("trial").get("passed") is False

    @property
    def learned(self) -> bool:
        """True if its candidate became live and stayed so."""
        return self.content.get("decision") == "promoted" and not self.rolled_back


def read_night(directory: Path) -> Night:
    """Read the record of a cycle; one that is missing or broken is a night without content."""
    file = directory / RECORD
    try:
        content = json.loads(read_text(file))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        check_format(content, file)
    except (OSError, ValueError, RecursionError, UserError) as error:
        return Night(directory, unreadable=first_line(error))
    return Night(directory, content)


def read_nights(name: Path) -> list[Night]:
    """Return all nights of an adapter, oldest first."""
    found = sorted(path for path in (name / CYCLES).glob("[0-9]" * 4 + "*") if path.is_dir())
    return [read_night(path) for path in found if path.name.isdigit()]


def number_of(cycle: str) -> str:
    """Return the number of a night as people write it: ``7`` for ``0007``, ``r7`` for a round."""
    before, _, number = cycle.rpartition("-")
    if before == "round" and number.isdigit():
        return f"r{int(number)}"
    return str(int(cycle)) if cycle.isdigit() else cycle


def local_time(text: Any, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return an ISO time in this machine's time zone, ``""`` for anything else."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime(form)
    except (TypeError, ValueError, OSError):
        return ""


def decided(night: Night) -> tuple[str, str]:
    """Return the kind of badge (``good``, ``bad`` or ``""``) and the decision in words."""
    content, generation = night.content, night.content.get("generation")
    decision = content.get("decision")
    if night.unreadable is not None:
        return "bad", "unreadable"
    if night.rolled_back:
        tried = night.result("promote").get("generation", generation)
        return "bad", f"rolled back: generation {tried} failed its trial"
    if decision == "promoted":
        return "good", f"promoted as generation {generation}"
    if decision == "failed":
        return "bad", "failed" if content.get("could_run", True) else "could not run"
    if decision is not None:
        return "", {"kept": "not promoted"}.get(decision, str(decision))
    step = (night.content.get("current") or {}).get("step")
    return "", f"not finished, it is in the step {step} or was cut there" if step else "not finished"


def reason_of(night: Night) -> str:
    """Return the sentence on the decision; of a generation that was rolled back, that of its trial."""
    said = night.result("trial").get("said") if night.rolled_back else night.content.get("reason")
    return night.unreadable or str(said or "")


def share_of_change(alpha: Any) -> str:
    """Return a candidate's name: the trained adapter, or a milder one by its share of the change."""
    if alpha in (None, 1, 1.0):
        return "candidate"
    return f"milder: {FRACTIONS.get(alpha, alpha)} of the change"

"""Record of a cycle (``cycle.json``): its steps as they end, so that a cycle that was cut resumes where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..files import FORMAT, check_format, write_json, writing
from ..user_files import read_text

CYCLES, RECORD = "cycles", "cycle.json"
# A step that was cut so often is not tried again: it may be what kills the process. A scheduler starts three times a
# night, and a Mac whose lid is closed cuts as well.
MOST_ATTEMPTS = 10

Decision = Literal["promoted", "kept", "skipped", "failed"]


@dataclass
class Ended(Exception):
    """End of a cycle before its last step, with the decision and a sentence that says why.

    Attributes:
        could_run: False if the cycle failed for another reason than its candidate.
    """

    decision: Decision
    reason: str
    could_run: bool = True


def now() -> str:
    """Return this moment as ISO text in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class CycleRecord:
    """A cycle's directory and the content of its ``cycle.json``."""

    def __init__(self, directory: Path, content: dict[str, Any]) -> None:
        self.directory, self.content = directory, content

    @classmethod
    def create(cls, directory: Path, name: str, config: Mapping[str, Any], parent: int | None) -> CycleRecord:
        """Create the directory and the record of a new cycle."""
        content = {
            "format": FORMAT,
            "cycle": directory.name,
            "name": name,
            "config": dict(config),
            "started": now(),
            "ended": None,
            "parent": parent,
            "steps": [],
            "current": None,
            "decision": None,
            "reason": None,
            "generation": None,
            "new": 0,
            "replayed": 0,
            "checks": [],
        }
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        record = cls(directory, content)
        record.save()
        return record

    @classmethod
    def read(cls, directory: Path) -> CycleRecord:
        """Read the record in a cycle's directory.

        Raises:
            UserError: it is missing or broken, or of a later version's format.
        """
        file = directory / RECORD
        try:
            content = json.loads(read_text(file))
            check_format(content, file)
            if not isinstance(content["steps"], list) or not isinstance(content["cycle"], str):
                raise ValueError("it has no steps")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: this is not the record of a night ({error}); move its directory away") from None
        return cls(directory, content)

    @property
    def key(self) -> str:
        """Number of the cycle, four digits."""
        return self.directory.name

    @property
    def finished(self) -> bool:
        """True if the cycle has ended, however."""
        return self.content["ended"] is not None

    def save(self) -> None:
        """Replace ``cycle.json``."""
        write_json(self.directory / RECORD, self.content)

    def result(self, step: str) -> dict[str, Any] | None:
        """Return the result of a step that has ended."""
        return next((each["result"] for each in self.content["steps"] if each["step"] == step), None)

    def run(self, step: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a step: the recorded one, or that of ``work``, which is recorded.

        Raises:
            Ended: the step was cut too often.
        """
        known = self.result(step)
        if known is not None:
            return known
        current = self.content["current"] or {}
        attempts = current.get("attempts", 0) + 1 if current.get("step") == step else 1
        if attempts > MOST_ATTEMPTS:
            said = f"the night was cut {MOST_ATTEMPTS} times in the step {step}; look at what ends the process there"
            raise Ended("failed", said, could_run=False)
        self.content["current"] = {"step": step, "started": now(), "attempts": attempts}
        self.save()
        started = time.monotonic()
        result = work()
        self.content["steps"].append(
            {
                "step": step,
                "started": self.content["current"]["started"],
                "ended": now(),
                "seconds": round(time.monotonic() - started, 3),
                "result": result,
            }
        )
        self.content["current"] = None
        self.save()
        return result

    def end(self, decision: Decision, reason: str, could_run: bool = True) -> None:
        """Record the end of the cycle."""
        if not could_run and (current := self.content["current"]):
            reason = f"in the step {current['step']}: {reason}"
        self.content |= {"ended": now(), "decision": decision, "reason": reason, "could_run": could_run}
        self.save()

    def summary(self) -> dict[str, Any]:
        """Return what ``sleep run --json`` prints."""
        keys = ("cycle", "decision", "reason", "generation", "new", "replayed", "checks")
        return {key: self.content[key] for key in keys}


def read_cycles(directory: Path) -> list[CycleRecord]:
    """Return the records of all cycles of an adapter, in order; a directory that was cut before its record has none."""
    places = sorted((directory / CYCLES).glob("[0-9]" * 4), key=lambda place: place.name)
    return [CycleRecord.read(place) for place in places if (place / RECORD).exists()]

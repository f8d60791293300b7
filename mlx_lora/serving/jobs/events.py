"""Events of a job: from the lines of its run's ``metrics.jsonl`` and of the worker's findings."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from ...runs.events import EVENTS, Checkpoint, Evaluation, Event, Progress, Start, TrainingWarning, from_keys
from ..records import Level, NewEvent


class Tail:
    """Reader of the whole lines of a growing JSONL file, from the start again where it was replaced or cut back."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._identity, self._offset = 0, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects that came since the last call."""
        try:
            with open(self.file, "rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._identity or about.st_size < self._offset:
                    self._identity, self._offset = about.st_ino, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                yield content


def finding_event(content: Mapping[str, Any]) -> NewEvent | None:
    """Return the event of a line of the worker's findings; ``None`` for a line of another kind."""
    level: Any = content.get("level")
    message, key = content.get("message"), content.get("key")
    if level not in get_args(Level) or not isinstance(message, str) or not isinstance(key, str):
        return None
    return NewEvent(message, key, level)


def metrics_event(content: Mapping[str, Any], progress: dict[str, Any]) -> NewEvent | None:
    """Return the event of a line of metrics, and bring a job's progress up to it; ``None``: there is none.

    Keys name kind and step: a resumed run repeats lines that were cut back, with the same values.
    """
    try:
        event = from_keys(EVENTS[content["event"]], dict(content))
        when = float(content["time"])
    except (KeyError, TypeError, ValueError):
        return None
    described = _described(event, progress)
    if described is None:
        return None
    message, key, level, data = described
    if isinstance(event, Start):
        key = f"start:{when}"
    return NewEvent(message, key, level, data and _finite(data), when)


Description = tuple[str, str, Level, dict[str, Any] | None]


def _described(event: Event, progress: dict[str, Any]) -> Description | None:
    if isinstance(event, Start):
        progress["total_steps"] = event.total_steps
        begin = f"continues after step {event.step}" if event.step else "starts"
        counts = (
            f"{event.total_steps} steps, {event.train_examples} training and {event.valid_examples} validation rows"
        )
        return f"Training {begin}: {counts}, {event.trained_modules}", "", "info", None
    total = progress.get("total_steps", 0)
    if isinstance(event, Progress):
        if event.step > progress.get("step", 0):
            progress |= {"step": event.step, "epoch": event.epoch, "loss": event.loss}
        data = {**asdict(event), "train_loss": event.loss, "total_steps": total}
        return f"Step {event.step}/{total}: training loss={event.loss:.2f}", f"progress:{event.step}", "info", data
    if isinstance(event, Evaluation):
        progress["valid_loss"] = event.validation_loss
        data = {"step": event.step, "epoch": event.epoch, "total_steps": total}
        data |= {"valid_loss": event.validation_loss, "full_valid_loss": event.validation_loss}
        message = f"Step {event.step}/{total}: full validation loss={event.validation_loss:.2f}"
        return message, f"evaluation:{event.step}", "info", data
    if isinstance(event, Checkpoint):
        return f"Checkpoint of step {event.step}", f"checkpoint:{event.step}", "info", None
    if isinstance(event, TrainingWarning):
        digest = hashlib.sha256(event.message.encode()).hexdigest()[:16]
        return event.message, f"warning:{event.step}:{digest}", "warn", None
    return None


def _finite(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if not isinstance(value, float) or math.isfinite(value)}

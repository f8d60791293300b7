"""Measurements of events by name, and of steps: what a logger shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from ...runs.events import Checkpoint, Evaluation, Event, Progress, TrainingResult


def measurements(event: Progress | Evaluation) -> dict[str, float]:
    """Return the numbers of an event by name, ``validation_loss/PART`` for the parts of the validation split."""
    measured = asdict(event)
    losses = measured.pop("losses", {})
    del measured["step"]
    return measured | {f"validation_loss/{part}": loss for part, loss in losses.items()}


def complete_steps(events: Iterable[Event]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the measurements of each step once no more can come: at the next one, at a checkpoint, or at the end.

    Thus a tracker has either all of a step or nothing of it, whenever the run is killed.
    """
    step, measured = 0, dict[str, float]()
    for event in events:
        more = event if isinstance(event, Progress | Evaluation) else None
        if measured and (more.step != step if more else isinstance(event, Checkpoint | TrainingResult)):
            yield step, measured
            measured = {}
        if more:
            step, measured = more.step, {**measured, **measurements(more)}

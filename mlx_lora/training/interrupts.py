"""Early termination: signals and time budgets."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from ..config import TrainingConfig


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Handle Ctrl-C and SIGTERM: the run asks after each step and ends cleanly; a second Ctrl-C interrupts it."""
    requested: list[int] = []

    def note(number: int, frame: Any) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deadline_of(config: TrainingConfig, now: float) -> float | None:
    """Return the time (seconds since the epoch) at which the time budget ends: the earlier of the two limits."""
    deadlines = []
    if config.max_minutes is not None:
        deadlines.append(now + 60 * config.max_minutes)
    if config.until is not None:
        hour, minute = map(int, config.until.split(":"))
        moment = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
        if moment.timestamp() <= now:
            moment += timedelta(days=1)
        deadlines.append(moment.timestamp())
    return min(deadlines, default=None)

"""Due nights: enough hours since the last one that trained, and the schedule's own times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from .config import SleepConfig
from .record import CycleRecord
from .scheduling.schedule import is_due


def not_due(
    config: SleepConfig, cycles: Sequence[CycleRecord], if_due: bool, now: datetime | None = None
) -> str | None:
    """Return a sentence if no night should begin now, else ``None``.

    Args:
        cycles: of the adapter, all of which have ended.
        if_due: ask the schedule as well, since a scheduler calls several times a night.
    """
    now = now or datetime.now(UTC)
    if if_due:
        due, said = is_due(config.directory, now)
        if not due:
            return said
    trained = [cycle.content["started"] for cycle in cycles if cycle.result("train") is not None]
    if not trained:
        return None
    hours = (now - datetime.fromisoformat(trained[-1])).total_seconds() / 3600
    # A night in the future was recorded before the clock was set back, which must not put off the next one.
    if not 0 <= hours < config.min_hours:
        return None
    return f"the last night trained {hours:.1f} h ago, {config.min_hours:g} h are asked for (min_hours)"

"""Context of a running cycle: its config, record and generations, and what it tells the user."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from ..runs.generations import Generations
from .clock import SuspensionClock
from .config import SleepConfig
from .record import CycleRecord


@dataclass
class Surroundings:
    """Receivers of what a cycle says while it runs.

    Attributes:
        progress: makes a progress bar of a description and a number of cases.
        notes: receives sentences for the user.
        step: receives the name of each step as it begins.
        quiet: trains without a progress bar.
    """

    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    notes: Callable[..., None] = lambda sentences: None
    step: Callable[[str], None] = lambda name: None
    quiet: bool = False


@dataclass
class Cycle:
    """A cycle that runs.

    Attributes:
        before: cycles that ended before it.
    """

    config: SleepConfig
    record: CycleRecord
    generations: Generations
    before: list[CycleRecord]
    around: Surroundings
    clock: SuspensionClock = field(default_factory=lambda: SuspensionClock())

    @property
    def live(self) -> Path | None:
        """Directory of the generation that was live when the cycle began."""
        parent = self.record.content["parent"]
        return None if parent is None else self.generations.path(parent)

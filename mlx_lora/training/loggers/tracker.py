"""Trackers: the programs that ``report_to`` names, each in a thread of its own, so that none can stop a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from ...errors import UserError, first_line
from ...runs.directory import METRICS_FILE
from ...runs.events import Event, Listener, Start, TrainingResult, TrainingWarning, read_events
from .measurements import complete_steps

# Seconds that the measurements which are still on their way get when a run ends, and when it is interrupted.
AT_THE_END, INTERRUPTED = 60.0, 5.0
PROJECT = "mlx-lora"


@dataclass(frozen=True)
class TrackedRun:
    """Run as a tracker sees it; ``id`` is the same when the run resumes, and another when it is started afresh."""

    id: str
    name: str
    directory: Path
    config: dict[str, Any]

    @property
    def unique_name(self) -> str:
        """Name for trackers that know a run by nothing else."""
        return f"{self.name}-{self.id[:8]}"


class Tracker(Protocol):
    """Connection to a tracker for one run; any exception ends it, with a warning to the user."""

    def open(self) -> int:
        """Find or create the run, and return the last step that is there, 0 for none."""

    def log(self, step: int, measured: dict[str, float]) -> None:
        """Record all measurements of a step."""

    def close(self, finished: bool) -> None:
        """Send what is still on its way; a run that is not finished will be resumed."""


Warn = Callable[[str], None]
Connect = Callable[[TrackedRun, Warn], Tracker]


def missing_extra(name: str) -> UserError:
    """Return the error of a logger whose package is not installed."""
    return UserError(f"the logger {name} needs an extra: pip install 'mlx-lora[{name}]'")


def load_trackers(names: Sequence[str]) -> dict[str, Connect]:
    """Import the trackers of some names.

    Raises:
        UserError: an extra is not installed.
    """
    found: dict[str, Connect] = {}
    for name in names:
        try:
            found[name] = import_module(f"{__package__}.{name}").connect
        except ImportError as error:
            raise missing_extra(name) from error
    return found


class BackgroundTracker:
    """Listener that hands events to a tracker in a thread.

    A tracker gets the steps that it lacks, from the metrics so far and then as they come: it has each step once,
    however often the run was killed.
    """

    def __init__(self, name: str, connect: Connect, run: TrackedRun, listeners: Sequence[Listener]) -> None:
        """Prepare a tracker; ``listeners`` take its warnings, in the thread that trains."""
        self.name, self.run, self.listeners = name, run, listeners
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._said: SimpleQueue[str] = SimpleQueue()
        self._tracker = connect(run, self._said.put)
        self._thread: Thread | None = None
        self._step, self._finished = 0, False

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Start):
            arguments = (read_events(self.run.directory / METRICS_FILE),)
            self._thread = Thread(target=self._work, args=arguments, name=self.name, daemon=True)
            self._thread.start()
        elif self._thread is not None and self._thread.is_alive():
            self._events.put(event)
        if isinstance(event, TrainingResult):
            self._finished = event.finished
        self._step = getattr(event, "step", self._step)
        if not isinstance(event, TrainingWarning):
            self._tell()

    def _work(self, before: list[Event]) -> None:
        try:
            last = self._tracker.open()
            for step, measured in complete_steps(chain(before, iter(self._events.get, None))):
                if step > last:
                    self._tracker.log(step, measured)
            self._tracker.close(self._finished)
        except Exception as error:
            self._warn(f"records no more of this run ({first_line(error)})")

    def _warn(self, what: str) -> None:
        self._said.put(f"{self.name} {what}; training goes on, and metrics.jsonl has every step")

    def _tell(self) -> None:
        while not self._said.empty():
            warning = TrainingWarning(step=self._step, message=self._said.get())
            for listener in self.listeners:
                listener(warning)

    def stop(self) -> None:
        """Say that no more events will come."""
        self._events.put(None)

    def wait(self, until: float) -> None:
        """Wait until the tracker has everything, but not beyond a moment of ``time.monotonic()``."""
        if self._thread is None:
            return
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._warn("is too slow to take the last steps")
        self._tell()


@contextmanager
def tracking(
    connections: Mapping[str, Connect], run: TrackedRun, listeners: Sequence[Listener]
) -> Iterator[list[BackgroundTracker]]:
    """Yield a listener for each tracker while a run trains, and wait for them at its end.

    Args:
        listeners: take the trackers' warnings.
    """
    trackers = [BackgroundTracker(name, connect, run, listeners) for name, connect in connections.items()]
    timeout = INTERRUPTED
    try:
        yield trackers
        timeout = AT_THE_END
    finally:
        until = time.monotonic() + timeout
        for tracker in trackers:
            tracker.stop()
        for tracker in trackers:
            tracker.wait(until)

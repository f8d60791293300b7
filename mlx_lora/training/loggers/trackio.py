"""Trackio: measurements in its local store, or on the Space or server that its environment variables name."""

from __future__ import annotations

import os
from typing import Any

import trackio

from .tracker import PROJECT, TrackedRun, Warn


class TrackioTracker:
    """Run of a Trackio project."""

    def __init__(self, run: TrackedRun, warn: Warn) -> None:
        self.run, self.warn = run, warn
        self.logged: Any = None
        self.warned = False

    def open(self) -> int:
        """Find or create the run, and return the last step that is there."""
        # It prints on standard output, which may be a program's input, and turns errors into Python's warnings.
        for module in (trackio, trackio.run, trackio.utils):
            module.print = lambda *values, **options: None
            module._emit_nonfatal_warning = self._warn
        self.logged = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.run.unique_name,
            resume="allow",
            config=self.run.config,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return self.logged._next_step - 1

    def _warn(self, message: str, *others: Any, **options: Any) -> None:
        if not self.warned:
            self.warned = True
            self.warn(f"trackio: {message.strip('* ').splitlines()[0]}")

    def log(self, step: int, measured: dict[str, float]) -> None:
        """Record all measurements of a step."""
        self.logged.log(measured, step=step)

    def close(self, finished: bool) -> None:
        """Send what is still on its way."""
        self.logged.finish()


connect = TrackioTracker

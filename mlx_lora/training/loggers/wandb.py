"""Weights & Biases: measurements on its server, or in the run directory until ``wandb sync`` sends them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

# Its reports of its own errors go to a third party.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
import wandb

from ...files import write_json
from .tracker import PROJECT, TrackedRun, Warn

# Seconds until an unreachable server is given up; the run's last steps get as long.
TIMEOUT = 30


class WandbTracker:
    """Run of a project of Weights & Biases.

    A run that is recorded offline is a file for each process, so that its last step is kept beside these.
    """

    def __init__(self, run: TrackedRun, warn: Warn) -> None:
        self.run, self.warn = run, warn
        self.logged: Any = None
        self.place = Path(os.environ.get("WANDB_DIR") or run.directory)
        self.last = self.place / "wandb" / f"last-step-{run.id}.json"

    def open(self) -> int:
        """Find or create the run, and return the last step that is there."""
        offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False)
        if offline:
            self.warn(f"wandb has no key (`wandb login`): this run is recorded in {self.place}/wandb for `wandb sync`")
        settings = {"silent": True, "console": "off", "init_timeout": TIMEOUT, "finish_timeout": TIMEOUT}
        self.logged = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.run.id,
            name=self.run.name,
            resume="allow",
            dir=self.place,
            mode="offline" if offline else None,
            config=self.run.config,
            settings=wandb.Settings(**settings),
        )
        return max(self.logged.starting_step - 1, self._last_step())

    def _last_step(self) -> int:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(self.last.read_text(encoding="utf-8"))["step"])
        return 0

    def log(self, step: int, measured: dict[str, float]) -> None:
        """Record all measurements of a step."""
        # First, since what was logged twice stays twice.
        write_json(self.last, {"step": step})
        self.logged.log(measured, step=step)

    def close(self, finished: bool) -> None:
        """Send what is still on its way."""
        self.logged.finish(exit_code=0 if finished else 1)


connect = WandbTracker

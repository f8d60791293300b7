"""Weights & Biases: measurements on its server, or in the run directory until ``wandb sync`` sends them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Its reports of its own errors go to a third party.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
import wandb

from .tracker import PROJECT, TrackedRun, Warn
from .wandb_offline import last_step

# Seconds until an unreachable server is given up; the run's last steps get as long.
TIMEOUT = 30


class WandbTracker:
    """Run of a project of Weights & Biases; recorded offline, it is a directory for each process."""

    def __init__(self, run: TrackedRun, warn: Warn) -> None:
        self.run, self.warn = run, warn
        self.logged: Any = None
        self.place = Path(os.environ.get("WANDB_DIR") or run.directory)

    def open(self) -> int:
        """Find or create the run, and return the last step that is there."""
        wandb.setup(wandb.Settings(silent=True))
        offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False)
        if offline:
            self.warn(f"wandb has no key (`wandb login`): this run is recorded in {self.place}/wandb for `wandb sync`")
        limits = ("init_timeout", "finish_timeout")
        settings = {limit: TIMEOUT for limit in limits if f"WANDB_{limit.upper()}" not in os.environ}
        self.logged = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.run.id,
            name=self.run.name,
            resume="allow",
            dir=self.place,
            mode="offline" if offline else None,
            config=self.run.config,
            settings=wandb.Settings(silent=True, console="off", **settings),
        )
        return max(self.logged.starting_step - 1, last_step(self.place, self.run.id))

    def log(self, step: int, measured: dict[str, float]) -> None:
        """Record all measurements of a step."""
        self.logged.log(measured, step=step)

    def close(self, finished: bool) -> None:
        """Send what is still on its way."""
        self.logged.finish(exit_code=0 if finished else 1)


connect = WandbTracker

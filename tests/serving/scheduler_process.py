"""A server of nothing but jobs, which is there to be killed: ``python scheduler_process.py STATE``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from mlx_lora.serving.jobs.scheduler import Scheduler
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State

if __name__ == "__main__":
    settings = ServerSettings(state=Path(sys.argv[1]), most_attempts=1000)
    Scheduler(State(settings.state), settings).start()
    print("ready", flush=True)
    signal.pause()

"""TensorBoard: measurements as event files in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runs.events import Evaluation, Event, Listener, Progress, Start, TrainingResult
from .measurements import measurements
from .tracker import missing_extra


def tensorboard(directory: Path) -> Listener:
    """Write the measurements of each step and evaluation where ``tensorboard --logdir`` finds them.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise missing_extra("tensorboard") from error
    writer: Any = None

    def write(event: Event) -> None:
        nonlocal writer
        if isinstance(event, Start):
            # The events that an interrupted run wrote after its last checkpoint are removed.
            writer = SummaryWriter(str(directory), purge_step=event.step + 1)
        elif isinstance(event, Progress | Evaluation):
            for name, value in measurements(event).items():
                writer.add_scalar(name, value, event.step)
        elif isinstance(event, TrainingResult):
            writer.close()

    return write

"""Loggers: training events to TensorBoard and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from ..errors import UserError, visible
from ..runs.events import Evaluation, Event, Listener, Progress, Start, TrainingResult, TrainingWarning


def tensorboard(directory: Path) -> Listener:
    """Write the measurements of each step and evaluation where ``tensorboard --logdir`` finds them.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard: true needs an extra: pip install 'mlx-lora[tensorboard]'") from error
    writer: Any = None

    def write(event: Event) -> None:
        nonlocal writer
        if isinstance(event, Start):
            # The events that an interrupted run wrote after its last checkpoint are removed.
            writer = SummaryWriter(str(directory), purge_step=event.step + 1)
        elif isinstance(event, Progress | Evaluation):
            measured = asdict(event)
            losses = measured.pop("losses", {})
            measured |= {f"validation_loss/{part}": loss for part, loss in losses.items()}
            for name, value in measured.items():
                if name != "step":
                    writer.add_scalar(name, value, event.step)
        elif isinstance(event, TrainingResult):
            writer.close()

    return write


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Listener]:
    """Show a progress bar on standard error with loss, tokens per second, memory and the time left."""
    console = Console(stderr=True, quiet=quiet, markup=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("{task.fields[measured]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console) as bar:
        task: TaskID | None = None

        def show(event: Event) -> None:
            nonlocal task
            if isinstance(event, Start):
                console.print(
                    f"{visible(event.model)}: {event.trainable_parameters:,} trainable parameters "
                    f"({event.trained_modules}), {event.train_examples} examples, {event.total_steps} steps"
                )
                task = bar.add_task("training", total=event.total_steps, measured="")
            elif isinstance(event, Progress) and task is not None:
                measured = (
                    f"loss {event.loss:.3f}  {event.tokens_per_second:,.0f} tokens/s  {event.peak_memory_gb:.2f} GB"
                )
                bar.update(task, completed=event.step, measured=measured)
            elif isinstance(event, Evaluation):
                console.print(f"step {event.step}: validation loss {event.validation_loss:.4f}")
            elif isinstance(event, TrainingWarning):
                console.print(f"warning: {visible(event.message)}")

        yield show

"""Progress bar: training events on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from ...errors import visible
from ...runs.events import Evaluation, Event, Listener, Progress, Start, TrainingWarning


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

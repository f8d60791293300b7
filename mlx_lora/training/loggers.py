"""Loggers: training events to metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import UserError, visible
from ..files import writing

Event = dict[str, Any]
Listener = Callable[[Event], None]


def metrics_file(path: Path) -> Listener:
    """Append each event as a line of JSON with the time, in seconds since the epoch."""

    def write(event: Event) -> None:
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": time.time()}, ensure_ascii=False) + "\n")

    return write


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
        if event["event"] == "start":
            # The events that an interrupted run wrote after its last checkpoint are removed.
            writer = SummaryWriter(str(directory), purge_step=event["step"] + 1)
        elif event["event"] in ("progress", "evaluation"):
            for name, value in event.items():
                if name not in ("event", "step"):
                    writer.add_scalar(name, value, event["step"])
        elif event["event"] == "complete":
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
    with Progress(*columns, console=console) as bar:
        task: TaskID | None = None

        def show(event: Event) -> None:
            nonlocal task
            if event["event"] == "start":
                console.print(
                    f"{visible(event['model'])}: {event['trainable_parameters']:,} trainable parameters "
                    f"({event['trained_modules']}), {event['train_examples']} examples, {event['total_steps']} steps"
                )
                task = bar.add_task("training", total=event["total_steps"], measured="")
            elif event["event"] == "progress" and task is not None:
                measured = (
                    f"loss {event['loss']:.3f}  {event['tokens_per_second']:,.0f} tokens/s  "
                    f"{event['peak_memory_gb']:.2f} GB"
                )
                bar.update(task, completed=event["step"], measured=measured)
            elif event["event"] == "evaluation":
                console.print(f"step {event['step']}: validation loss {event['validation_loss']:.4f}")
            elif event["event"] == "warning":
                console.print(f"warning: {visible(event['message'])}")

        yield show

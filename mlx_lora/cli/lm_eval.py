"""``mlx-lora eval --lm-eval``: tasks of lm-evaluation-harness on any target with log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .output import print_json, print_notes, print_table, print_warnings

# Options that a task has a use for, beside its own.
USED = ("target", "out", "backend", "as_json")


def interoperation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``eval`` that are for other projects' tools."""
    for add in (
        click.option("--limit", type=click.IntRange(1), help="Of --lm-eval: only the first cases of each task."),
        click.option("--lm-eval", "tasks", metavar="TASKS", help="Tasks of lm-eval, or YAML files (extra lm-eval)."),
        click.option("--inspect", is_flag=True, help="Write a log for `inspect view` beside each report."),
    ):
        command = add(command)
    return command


def evaluate_tasks(options: dict[str, Any]) -> bool:
    """Run tasks of lm-eval and print their results; return False if none are asked for.

    Args:
        options: all options of ``eval``; ``tasks`` and ``limit`` are removed.
    """
    tasks, limit = options.pop("tasks"), options.pop("limit")
    if tasks is None:
        if limit is not None:
            raise click.UsageError("--limit is for --lm-eval; for a suite, give --cases a file with fewer cases.")
        return False
    if options["target"] is None:
        raise click.UsageError("Missing option '--target'.")
    unused = [name for name, value in options.items() if name not in USED and value not in (None, False)]
    if unused:
        raise click.UsageError(f"--{unused[0].replace('_', '-')} is not for --lm-eval: a task has its own cases.")
    from ..evaluation.lm_eval import run_tasks, table_of

    chosen = {name: options[name] for name in ("out", "backend")}
    summary = run_tasks(tasks, options["target"], limit=limit, notes=print_notes, **chosen)
    print_warnings(summary["warnings"])
    if options["as_json"]:
        print_json(summary)
    else:
        columns = ("task", "metric", "value", "standard error")
        print_table(f"lm-eval: {summary['target']}", columns, table_of(summary))
    return True

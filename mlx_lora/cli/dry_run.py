"""Output of ``mlx-lora train`` before the first step: a dry run, and the exports of the base."""

from __future__ import annotations

from dataclasses import replace

from ..config import TrainingConfig
from ..errors import UserError
from ..export.possible import possible_exports
from ..training.dry_run import BUDGET_SECONDS, dry_run, report_rows
from ..training.setup import TrainingSetup, prepare
from .output import print_json, print_table, progress, say


def print_exports(ready: TrainingSetup) -> None:
    """Print the exports that the base allows, on standard error."""
    if (line := possible_exports(ready.model, ready.config)) is not None:
        say(f"exports of this base: {line}", err=True)


def print_dry_run(config: TrainingConfig, increment: bool, as_json: bool) -> None:
    """Print all facts about a run except its result.

    Raises:
        UserError: it is a round of incremental training, or see ``prepare``.
    """
    if increment:
        raise UserError("--dry-run shows a whole run, not a round of --increment; leave one of them out")
    # Nothing is written, so that a name for the run is not needed yet.
    ready = prepare(replace(config, output_dir=config.output_dir or "adapters/none"))
    with progress("timing the first steps", int(BUDGET_SECONDS)) as advance:
        report = {**dry_run(ready, advance), "exports": possible_exports(ready.model, ready.config)}
    if as_json:
        print_json(report)
        return
    print_table("A dry run: nothing was written", ("", ""), report_rows(report))
    for note in report["notes"]:
        say(f"note: {note}")
    say(f"The first example, its supervised tokens between ⟦ and ⟧:\n{report['example']}")

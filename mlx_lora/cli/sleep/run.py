"""``mlx-lora sleep run``: one night."""

from __future__ import annotations

import sys

import click

from ..options import json_option
from ..output import print_json, print_notes, progress, say


@click.command()
@click.option(
    "--config", "config_path", metavar="FILE", default="configs/sleep.yaml", show_default=True, help="Of the night."
)
@click.option("--if-due", is_flag=True, help="Do nothing unless a night is due: what a scheduler calls.")
@click.option("--dry-run", is_flag=True, help="Say what the night would learn from, and write nothing.")
@json_option
def run(config_path: str, if_due: bool, dry_run: bool, as_json: bool) -> None:
    """Run one night: gather, curate, replay, train, judge, promote and report; resume the one that was cut.

    Exit status: 0 promoted, kept, or nothing to do; 1 the candidate failed its gate; 2 the night could not run.

    \b
    mlx-lora sleep run --config configs/sleep.yaml --dry-run
    mlx-lora sleep run --config configs/sleep.yaml
    """
    from ...sleep.config import load_sleep_config
    from ...sleep.cycle import Surroundings, run_cycle
    from ...sleep.rehearsal import rehearse

    config = load_sleep_config(config_path)
    if dry_run:
        found = rehearse(config, if_due)
        print_json(found) if as_json else say("\n".join(found["said"]))
        return
    around = Surroundings(
        progress, print_notes, (lambda name: None) if as_json else (lambda name: say(f"· {name}", err=True)), as_json
    )
    outcome = run_cycle(config, around, if_due=if_due)
    if as_json:
        print_json(outcome.summary)
    else:
        say(f"{outcome.summary['decision']}: {outcome.summary['reason']}", bold=True)
        if outcome.page is not None:
            say(f"the page of the night: {outcome.page}")
    sys.exit(outcome.status)

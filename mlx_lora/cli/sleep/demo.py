"""``mlx-lora sleep demo``: three short nights with nothing to download."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..options import backend_option, json_option
from ..output import print_json, print_notes, progress, say


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sleep-demo"),
    show_default=True,
    help="Directory for stores, adapter and pages; an earlier demonstration there is replaced.",
)
@backend_option
@json_option
def demo(out: Path, backend: str | None, as_json: bool) -> None:
    """Run three short nights on the built-in base: two days of new trajectories, and a day whose store has collapsed.

    The first two nights are promoted, the second without forgetting what the first learned; the third is not.
    Exit status 0: it went so. 1: it did not.
    """
    from ...sleep.context import Surroundings
    from ...sleep.cycle import Outcome
    from ...sleep.demo import COLLAPSED, NIGHTS, run_demo

    def told(night: str, outcome: Outcome) -> None:
        if as_json:
            return
        what = "a store that has collapsed" if night == COLLAPSED else f"trajectories: {', '.join(NIGHTS[night])}"
        say(f"\nThe night after {night} ({what})", bold=True)
        say(f"{outcome.summary['decision']}: {outcome.summary['reason']}")
        for check in outcome.summary["checks"]:
            say(f"  {check['name']}: {check['said']}")

    around = Surroundings(progress, print_notes, quiet=as_json)
    found = run_demo(out, around, backend or "auto", told)
    if as_json:
        print_json(found)
    else:
        say(f"\nThe pages of the nights: {found['index']}")
        say(f"What is live:  mlx-lora generate --target {out}/adapter@live --prompt ...")
        say(f"Undo it:       mlx-lora sleep rollback {out}/adapter")
    sys.exit(0 if found["as_expected"] else 1)

"""``mlx-lora doctor``: report the capabilities of this machine, and advise on missing ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import visible
from .options import json_option
from .output import print_json, say

if TYPE_CHECKING:
    from ..doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine is, which backend trains on it and why, and what to do about what is missing.

    Nothing is changed or downloaded. Exit status: 0 this machine can train, whatever else is missing; 1 it cannot,
    since neither MLX nor torch works.

    \b
    mlx-lora doctor
    mlx-lora doctor --json
    """
    from rich.console import Console

    from ..doctor import examine

    with Console(stderr=True).status("looking at this machine"):
        found = examine()
    if as_json:
        print_json({"findings": [asdict(finding) for finding in found.findings], "backend": found.backend})
    else:
        print_findings(found.findings)
        if not found.can_train:
            say("this machine CANNOT TRAIN: neither MLX nor torch works")
    sys.exit(0 if found.can_train else 1)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a table with advice below each finding, so that commands and addresses stay whole in 80 columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="this machine", title_justify="left")
    table.add_column("subject", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what was found, → and what to do", overflow="fold")
    for finding in findings:
        said = Text(visible(finding.found))
        if finding.advice:
            said.append(f"\n→ {visible(finding.advice)}", style="bold")
        table.add_row(finding.name, Text(finding.state, style=STYLES[finding.state]), said)
    Console().print(table)

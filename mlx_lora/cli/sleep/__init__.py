"""``mlx-lora sleep``: learn, judge, promote and undo, unattended; one command a file."""

from __future__ import annotations

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "run": ("mlx_lora.cli.sleep.run", "run", "Run one night now, or resume the one that was cut."),
    "demo": ("mlx_lora.cli.sleep.demo", "demo", "See it work: three short nights on the built-in base."),
    "install": ("mlx_lora.cli.sleep.install", "install", "Run it every night (launchd, systemd)."),
    "uninstall": ("mlx_lora.cli.sleep.uninstall", "uninstall", "No more nights; what was learned stays."),
    "status": ("mlx_lora.cli.sleep.status", "status", "What is live, when the next night is, how the last one ended."),
    "history": ("mlx_lora.cli.sleep.history", "history", "What became live when, and why."),
    "report": ("mlx_lora.cli.sleep.report", "report", "The page of a night."),
    "rollback": ("mlx_lora.cli.sleep.rollback", "rollback", "Back to the previous generation, or to a number."),
    "promote": ("mlx_lora.cli.sleep.promote", "promote", "Make a generation live by hand."),
    "pin": ("mlx_lora.cli.sleep.pin", "pin", "Keep a generation for ever."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def sleep() -> None:
    """Learn from the day at night: gather, replay, train, judge, promote; never worse in the morning.

    \b
    mlx-lora sleep demo
    mlx-lora sleep run --config configs/sleep.yaml
    mlx-lora sleep install --config configs/sleep.yaml --at 03:00
    """

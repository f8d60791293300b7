"""``mlx-lora sleep install``: run a config every night, with launchd or systemd."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option
from ..output import print_json, say

if TYPE_CHECKING:
    from ...sleep.installation import Plan


@click.command()
@click.option("--config", required=True, metavar="FILE", help="Config of the night; see configs/sleep.yaml.")
@click.option("--at", default="03:00", show_default=True, metavar="HH:MM", help="Local time of the night.")
@click.option(
    "--every",
    default="day",
    show_default=True,
    help="day, weekday, weekend, days such as mon,wed,fri, or a number: 2 is every other night.",
)
@click.option(
    "--scheduler",
    type=click.Choice(["auto", "launchd", "systemd"]),
    default="auto",
    show_default=True,
    help="launchd on macOS, systemd on Linux.",
)
@click.option("--print", "only_print", is_flag=True, help="Print what would be written and run, and nothing else.")
@click.option("--replace", is_flag=True, help="Replace a schedule that is there and differs; measure the speed anew.")
@json_option
def install(config: str, at: str, every: str, scheduler: str, only_print: bool, replace: bool, as_json: bool) -> None:
    """Run a night at a fixed time, by a job of your own user; no root. It is printed before it is written.

    The job starts at that time, one and two hours later, and at login, and does nothing unless a night is due: a
    machine that was asleep, off or on battery gets its night later. The speed of this machine is measured now and each
    night, so that the report can say that the system slows the job down.

    \b
    mlx-lora sleep install --config configs/sleep.yaml --at 03:00
    mlx-lora sleep install --config configs/sleep.yaml --at 23:30 --every mon,wed,fri --print
    mlx-lora sleep uninstall --config configs/sleep.yaml
    """
    from ...sleep import installation, throttle
    from ...sleep.schedule import installed, said_every

    plan = installation.plan(config, at, every, scheduler)
    advice = plan.scheduler.advice(plan.schedule)
    if not as_json:
        _print_plan(plan)
    content = {} if only_print else installation.install(plan, replace, throttle.measure_rates)
    state = _state(plan, only_print, replace)
    due = None if only_print else (installed(plan.schedule.name) or {}).get("next_due")
    if as_json:
        print_json(
            _described(plan) | {"state": state, "rates": content.get("rates"), "next_due": due, "advice": advice}
        )
        return
    if state == "printed":
        say("nothing was written (--print)")
    elif state == "unchanged":
        say(f"this is installed already; the next night is due at {due}")
    else:
        rates = ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in content["rates"].items())
        say(f"installed: {plan.schedule.name} {said_every(plan.schedule)}; the first night is due at {due}")
        say(f"speed of this machine, to compare each night with: {rates}")
    for line in advice:
        say(f"note: {line}")


def _state(plan: Plan, only_print: bool, replace: bool) -> str:
    if only_print:
        return "printed"
    if plan.differs:
        return "replaced"
    return "unchanged" if plan.is_there and not replace else "new"


def _described(plan: Plan) -> dict[str, Any]:
    schedule = plan.schedule
    return {
        "name": str(schedule.name),
        "config": str(schedule.config),
        "at": schedule.at,
        "every": schedule.every,
        "scheduler": plan.scheduler.NAME,
        "files": [{"file": str(file), "content": text} for file, text in plan.files.items()],
    }


def _print_plan(plan: Plan) -> None:
    """Print each file as it will be, or its difference from what is there, and the commands that load it."""
    if plan.differs:
        say(plan.diff())
    for file, text in plan.files.items():
        if plan.before[file] is None:
            say(f"{file}:", bold=True)
            say(text)
    for command in [] if plan.is_there else plan.scheduler.commands(plan.schedule.name):
        say("$ " + shlex.join(command))

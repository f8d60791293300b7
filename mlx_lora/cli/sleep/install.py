"""``mlx-lora sleep install``: run a config every night, with launchd or systemd."""

from __future__ import annotations

import click

from ..options import json_option
from ..output import print_json, say

EVERY = "day, weekday, weekend, days such as mon,wed,fri, or a number: 2 is every other night."
SCHEDULER = "launchd on macOS, systemd on Linux; by default what this system has."


@click.command()
@click.option("--config", required=True, metavar="FILE", help="Config of the night; see configs/sleep.yaml.")
@click.option("--at", default="03:00", show_default=True, metavar="HH:MM", help="Local time of the night.")
@click.option("--every", default="day", show_default=True, help=EVERY)
@click.option("--scheduler", type=click.Choice(["auto", "launchd", "systemd"]), default="auto", help=SCHEDULER)
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
    from ...sleep.scheduling import installation, throttle
    from ...sleep.scheduling.schedule import installed, said_every

    plan = installation.plan(config, at, every, scheduler)
    if not as_json:
        say(plan.to_text())
    state = "printed" if only_print else plan.state(replace)
    content = {} if only_print else installation.install(plan, replace, throttle.measure_rates)
    due = None if only_print else (installed(plan.schedule.name) or {}).get("next_due")
    advice = plan.scheduler.advice(plan.schedule)
    if as_json:
        rest = {"state": state, "rates": content.get("rates"), "next_due": due, "advice": advice}
        print_json({**plan.to_dict(), **rest})
        return
    if state == "printed":
        say("nothing was written (--print)")
    elif state == "unchanged":
        say(f"this is installed already; the next night is due at {due}")
    else:
        say(f"installed: {plan.schedule.name} {said_every(plan.schedule)}; the first night is due at {due}")
    for line in advice:
        say(f"note: {line}")

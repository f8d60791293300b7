"""Nights on Linux: a service and a timer of the user's systemd."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError
from ...processes import python_command
from .programs import answer, said
from .schedule import DAYS, Schedule, said_every, slug_of

NAME = "systemd"
PREFIX = "mlx-lora-sleep-"
STOP_SECONDS = 120
# Characters that systemd refuses in the name of a program, but not in an argument.
REFUSED = set("\"'\\")
# Section that systemd passes over; `doctor` finds the adapter by it.
OWN_SECTION, NIGHT_OF = "X-MlxLora", "Night"


def unit_of(name: Path) -> str:
    """Return the name of an adapter's units, without their suffixes."""
    return PREFIX + slug_of(name)


def directory() -> Path:
    """Return the directory of the user's units."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def files_of(name: Path) -> list[Path]:
    """Return the files of an adapter's units, the timer first."""
    return [directory() / f"{unit_of(name)}.{suffix}" for suffix in ("timer", "service")]


def render(schedule: Schedule, variables: Mapping[str, str], on_ac_power: bool = False) -> dict[Path, str]:
    """Return the text of each file.

    Args:
        variables: of the environment, which systemd gives to the service.
        on_ac_power: no start on battery at all.
    """
    timer, service = files_of(schedule.name)
    return {timer: _timer(schedule), service: _service(schedule, variables, on_ac_power)}


def _timer(schedule: Schedule) -> str:
    lines = [
        "[Unit]",
        f"Description={_escaped(f'Night of {schedule.name}, {said_every(schedule)}')}",
        "",
        "[Timer]",
        *(f"OnCalendar={moment}" for moment in _calendar(schedule)),
        # A night that fell into a time when the machine was off is made up for.
        "Persistent=true",
        "RandomizedDelaySec=15min",
        "FixedRandomDelay=true",
        "",
        "[Install]",
        "WantedBy=timers.target",
        "",
        f"[{OWN_SECTION}]",
        f"{NIGHT_OF}={schedule.name}",
    ]
    return "\n".join(lines) + "\n"


def _service(schedule: Schedule, variables: Mapping[str, str], on_ac_power: bool) -> str:
    run = python_command("mlx_lora", "sleep", "run", "--config", str(schedule.config), "--if-due")
    inhibit = [shutil.which("systemd-inhibit") or "/usr/bin/systemd-inhibit", "--what=sleep:idle", "--who=mlx-lora"]
    inhibit += [f"--why=Night of {schedule.name}"]
    lines = [
        "[Unit]",
        f"Description={_escaped(f'Night of {schedule.name}')}",
        *(["ConditionACPower=true"] if on_ac_power else []),
        "",
        "[Service]",
        "Type=oneshot",
        # Not quoted: all of the line is the path.
        f"WorkingDirectory={_escaped(str(schedule.working_directory))}",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in variables.items()),
        # A colon: dollar signs are dollar signs. A minus: without a session, as on a server, nobody may inhibit sleep;
        # then the second line runs the night, which is not due any more after the first.
        f"ExecStart=-:{' '.join(map(_quoted, [*inhibit, *run]))}",
        f"ExecStart=:{' '.join(map(_quoted, ['/usr/bin/env', *run] if set(run[0]) & REFUSED else run))}",
        # A candidate that failed its gate is a night that went well.
        "SuccessExitStatus=1",
        f"TimeoutStopSec={STOP_SECONDS}",
        "",
        f"[{OWN_SECTION}]",
        f"{NIGHT_OF}={schedule.name}",
    ]
    return "\n".join(lines) + "\n"


def _calendar(schedule: Schedule) -> list[str]:
    times: dict[tuple[int, int], list[int]] = {}
    for day, hour, minute in schedule.starts():
        times.setdefault((hour, minute), []).append(day)
    every_day = len(schedule.days) == len(DAYS)
    return [
        ("" if every_day else ",".join(DAYS[day].capitalize() for day in sorted(days)) + " ")
        + f"*-*-* {hour:02d}:{minute:02d}:00"
        for (hour, minute), days in times.items()
    ]


def _escaped(text: str) -> str:
    """Return a text in which systemd expands nothing."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return one argument of a command, or one variable, for a unit file."""
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def name_in(file: Path) -> Path | None:
    """Return the adapter that a timer is for."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    _, begins, rest = text.partition(f"[{OWN_SECTION}]\n{NIGHT_OF}=")
    return Path(rest.split("\n")[0]) if begins and rest.strip() else None


def found() -> list[Path]:
    """Return the timers of all nights of this user."""
    return sorted(directory().glob(f"{PREFIX}*.timer"))


def commands(name: Path) -> list[list[str]]:
    """Return the commands that start the timer."""
    return [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "--now", f"{unit_of(name)}.timer"],
    ]


def is_loaded(name: Path) -> bool:
    """Return True if the timer is waiting."""
    done = answer("systemctl", "--user", "is-active", f"{unit_of(name)}.timer")
    return done is not None and done.returncode == 0


def load(name: Path) -> None:
    """Start the timer from its files.

    Raises:
        UserError: systemd does not take it, in its own words.
    """
    for command in commands(name):
        done = answer(*command)
        if done is None or done.returncode:
            raise UserError(f"systemctl did not start the timer of the night: {said(done, 'systemctl')}")
    # A timer that was running keeps its old times otherwise.
    answer("systemctl", "--user", "restart", f"{unit_of(name)}.timer")


def unload(name: Path) -> None:
    """Stop and disable the timer; nothing happens where there is none.

    Raises:
        UserError: systemd refuses, in its own words.
    """
    done = answer("systemctl", "--user", "disable", "--now", f"{unit_of(name)}.timer")
    if done is not None and done.returncode and is_loaded(name):
        raise UserError(f"systemctl did not stop the timer of the night: {said(done, 'systemctl')}")


def forget() -> None:
    """Tell systemd that files are gone."""
    answer("systemctl", "--user", "daemon-reload")


def advice(schedule: Schedule) -> list[str]:
    """Return what a person may do so that a night happens."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    done = answer("loginctl", "show-user", user, "--property=Linger", "--value")
    if done is not None and done.stdout.strip() == "yes":
        return []
    return ["to let it run while you are not logged in: loginctl enable-linger (mlx-lora never runs it)"]

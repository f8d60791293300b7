"""Nights on macOS: a LaunchAgent of the user, which launchd also starts when it is loaded, that is at login."""

from __future__ import annotations

import os
import plistlib
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from ...errors import UserError
from ...processes import python_command
from .programs import answer, said
from .schedule import DAYS, Schedule, slug_of

NAME = "launchd"
PREFIX = "mlx-lora.sleep."
# Without -d: while the display is on, the watchdog of the GPU ends long kernels.
CAFFEINATE = ("/usr/bin/caffeinate", "-i", "-s")
# Seconds between SIGTERM and SIGKILL: a checkpoint of a large adapter takes some.
EXIT_SECONDS = 120
# Variable by which `doctor` finds the adapter.
NIGHT_OF = "MLX_LORA_NIGHT"
# launchd is still taking the job down when `bootout` returns, and refuses it meanwhile.
TRIES, PAUSE = 10, 0.5
# Letters of the days of the week in `pmset repeat`.
PMSET_DAYS = "MTWRFSU"
# Places that macOS lets a program see only after a person has agreed, which nobody does at night.
PROTECTED = ("Documents", "Desktop", "Downloads")


def label_of(name: Path) -> str:
    """Return the label of an adapter's job."""
    return PREFIX + slug_of(name)


def directory() -> Path:
    """Return the directory of the user's agents."""
    return Path.home() / "Library" / "LaunchAgents"


def files_of(name: Path) -> list[Path]:
    """Return the files of an adapter's job, the scheduler's own first."""
    return [directory() / f"{label_of(name)}.plist"]


def render(schedule: Schedule, variables: Mapping[str, str]) -> dict[Path, str]:
    """Return the text of each file.

    Args:
        variables: of the environment, which launchd gives to the job.
    """
    label = label_of(schedule.name)
    log = str(Path.home() / "Library" / "Logs" / f"{label}.log")
    run = python_command("mlx_lora", "sleep", "run", "--config", str(schedule.config), "--if-due")
    content = {
        "Label": label,
        "ProgramArguments": [*CAFFEINATE, *run],
        "WorkingDirectory": str(schedule.working_directory),
        "EnvironmentVariables": {**variables, NIGHT_OF: str(schedule.name)},
        "StartCalendarInterval": _intervals(schedule),
        "RunAtLoad": True,
        # Any other type, Nice or LowPriorityIO gives the job the slow cores and little of the GPU.
        "ProcessType": "Interactive",
        "ExitTimeOut": EXIT_SECONDS,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return {files_of(schedule.name)[0]: plistlib.dumps(content, sort_keys=False).decode()}


def _intervals(schedule: Schedule) -> list[dict[str, int]]:
    if len(schedule.days) == len(DAYS):
        times = dict.fromkeys((hour, minute) for _, hour, minute in schedule.starts())
        return [{"Hour": hour, "Minute": minute} for hour, minute in times]
    # launchd counts from Sunday.
    return [{"Weekday": (day + 1) % 7, "Hour": hour, "Minute": minute} for day, hour, minute in schedule.starts()]


def name_in(file: Path) -> Path | None:
    """Return the adapter that a plist is for."""
    try:
        content = plistlib.loads(file.read_bytes())
        return Path(content["EnvironmentVariables"][NIGHT_OF])
    except Exception:
        # Each part of plistlib raises errors of its own.
        return None


def found() -> list[Path]:
    """Return the plists of all nights of this user."""
    return sorted(directory().glob(f"{PREFIX}*.plist"))


def commands(name: Path) -> list[list[str]]:
    """Return the commands that load the job."""
    domain = f"gui/{os.getuid()}"
    return [
        # A job that was once disabled by hand could not be loaded.
        ["launchctl", "enable", f"{domain}/{label_of(name)}"],
        ["launchctl", "bootstrap", domain, str(files_of(name)[0])],
    ]


def is_loaded(name: Path) -> bool:
    """Return True if launchd has the job."""
    done = answer("launchctl", "print", f"gui/{os.getuid()}/{label_of(name)}")
    return done is not None and done.returncode == 0


def load(name: Path) -> None:
    """Load the job from its file, in place of one that is loaded.

    Raises:
        UserError: launchd does not take it, in its own words.
    """
    (Path.home() / "Library" / "Logs").mkdir(parents=True, exist_ok=True)
    again = is_loaded(name)
    if again:
        unload(name)
    enable, bootstrap = commands(name)
    answer(*enable)
    for last in (False,) * (TRIES - 1 if again else 0) + (True,):
        done = answer(*bootstrap)
        # Some versions report an error and load the job all the same.
        if done is not None and (done.returncode == 0 or is_loaded(name)):
            return
        if last:
            raise UserError(f"launchctl did not load the night: {said(done, 'launchctl')}")
        time.sleep(PAUSE)


def unload(name: Path) -> None:
    """Take the job from launchd; nothing happens where it has none.

    Raises:
        UserError: launchd refuses, in its own words.
    """
    done = answer("launchctl", "bootout", f"gui/{os.getuid()}/{label_of(name)}")
    if done is not None and done.returncode and is_loaded(name):
        raise UserError(f"launchctl did not unload the night: {said(done, 'launchctl')}")


def forget() -> None:
    """Do nothing: launchd does not read a file that is gone."""


def advice(schedule: Schedule) -> list[str]:
    """Return what a person may do so that a night happens."""
    moment = datetime.combine(datetime(2024, 1, 1), schedule.time) - timedelta(minutes=5)
    before = moment.weekday() - datetime(2024, 1, 1).weekday()
    days = "".join(PMSET_DAYS[(day + before) % 7] for day in schedule.days)
    found = [
        f"to wake this Mac for it: sudo pmset repeat wakeorpoweron {days} {moment:%H:%M:%S} (needs root, and replaces "
        "your other repeating events; mlx-lora never runs it)"
    ]
    protected = [Path.home() / name for name in PROTECTED]
    for path in dict.fromkeys((schedule.working_directory, schedule.config, schedule.name)):
        if place := next((place for place in protected if path.is_relative_to(place)), None):
            found.append(
                f"{path} lies in {place}, which macOS may keep from a job of the night: move it, or give "
                "Python Full Disk Access in System Settings, Privacy & Security"
            )
            break
    return found

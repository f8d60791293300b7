"""Findings about the nights that are installed: when the next one is due, and how the last one ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..sleep.scheduling.installation import Scheduler, nights
from ..sleep.scheduling.schedule import cycles, installed, nominal_times, read_schedule, said_every, schedule_of
from .machine import NOTE, OK, Finding

INSTALL = "`mlx-lora sleep install --config FILE` writes it anew"
# A night that was missed by less may only wait for the machine to be switched on.
MISSED = timedelta(hours=26)


def night_findings() -> list[Finding]:
    """Report each night that is installed for this user, or that there is none."""
    found = [_night(scheduler, file) for scheduler, file in nights()]
    return found or [Finding("night", OK, "none is installed (`mlx-lora sleep install`)")]


def _night(scheduler: Scheduler, file: Path) -> Finding:
    name = scheduler.name_in(file)
    if name is None:
        return Finding("night", NOTE, f"{file}: the adapter that it is for cannot be read", f"remove it; {INSTALL}")
    try:
        content = read_schedule(name)
        there = installed(name)
    except UserError as error:
        return Finding("night", NOTE, str(error).partition("; ")[0], INSTALL)
    if content is None or there is None:
        advice = f"`mlx-lora sleep uninstall --config {name}` removes it; {INSTALL}"
        return Finding("night", NOTE, f"{name}: {file} is there, and no schedule.json of it", advice)
    due = datetime.fromisoformat(there["next_due"])
    last = next(cycles(name), None)
    said = f"{name}: {said_every(schedule_of(content))}, next due {due:%Y-%m-%d %H:%M}; {last_in_words(last)}"
    if advice := _advice(scheduler, name, content, last):
        return Finding("night", NOTE, said, advice)
    return Finding("night", OK, said)


def last_in_words(last: dict[str, Any] | None) -> str:
    """Return the end of the last night in words."""
    if last is None:
        return "no night yet"
    moment = datetime.fromisoformat(last["started"]).astimezone()
    begun = f"the last one, {last.get('cycle', 'unnamed')} of {moment:%Y-%m-%d %H:%M},"
    if not last.get("ended"):
        return f"{begun} is running or was cut; the next start resumes it"
    ended = str(last.get("decision") or "ended")
    generation = f" generation {last['generation']}" if ended == "promoted" and last.get("generation") else ""
    reason = f": {last['reason']}" if last.get("reason") else ""
    return f"{begun} {ended}{generation}{reason}"


def _advice(scheduler: Scheduler, name: Path, content: dict[str, Any], last: dict[str, Any] | None) -> str:
    """Return what to do about a night that cannot run, or does not; empty where all is well."""
    from ..sleep.config import load_sleep_config

    if not scheduler.is_loaded(name):
        return f"{scheduler.NAME} has not loaded it; {INSTALL}"
    if not Path(content.get("python", "/")).exists():
        return f"its Python, {content['python']}, is gone; {INSTALL}"
    try:
        load_sleep_config(content["config"])
    except UserError as error:
        return f"tonight's would fail: {first_line(error)}"
    if missed := _missed(content, last):
        return f"none since {missed:%Y-%m-%d %H:%M}: was the machine on, and on AC power? the job's log says more"
    if last and last.get("decision") == "failed":
        return f"`mlx-lora sleep report` shows what happened to {last.get('cycle', 'it')}"
    return ""


def _missed(content: dict[str, Any], last: dict[str, Any] | None) -> datetime | None:
    """Return the first time after the last night at which there should have been one, where it is long ago."""
    since = datetime.fromisoformat(content["installed"])
    begun = datetime.fromisoformat(last["started"]).astimezone() if last else since
    first = next(moment for moment in nominal_times(schedule_of(content), since) if moment > begun)
    return first if first < datetime.now().astimezone() - MISSED else None

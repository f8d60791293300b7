"""Schedule of an adapter's nights: its times, ``NAME/schedule.json``, and when the next night is due.

The scheduler starts ``sleep run --if-due`` several times a night, since the machine may be asleep, off or on battery at
one of them; the nominal time of a night is its first, and one attempt that was more than a refusal of a guard ends it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import UserError, shortened
from ...files import FORMAT, check_format, write_json
from ..night_record import read_night
from ..record import CYCLES

SCHEDULE_FILE = "schedule.json"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SHORT = dict(zip(LONG, DAYS, strict=True))
NAMED = {"day": DAYS, "weekday": DAYS[:5], "weekend": DAYS[5:]}
# Hours after the nominal time at which the scheduler starts the command again.
AGAIN = (0, 1, 2)


@dataclass(frozen=True)
class Schedule:
    """Nights of one adapter.

    Attributes:
        name: directory of the adapter, absolute.
        config: config of the night, absolute.
        at: nominal time, ``HH:MM``.
        every: ``day``, ``weekday``, ``weekend``, days such as ``mon,wed``, or a number of nights such as ``2``.
        working_directory: directory that the paths of the config are relative to.
    """

    name: Path
    config: Path
    at: str
    every: str
    working_directory: Path

    def __post_init__(self) -> None:
        for path in (self.name, self.config, self.working_directory):
            if not str(path).isprintable():
                raise UserError(f"{path}: a path with control characters cannot be scheduled; rename it")

    @property
    def time(self) -> time:
        """Nominal time of a night."""
        return parse_time(self.at)

    @property
    def nights(self) -> int:
        """Number of nights from one to the next; 1 where the days of the week decide."""
        return int(self.every) if self.every.isdigit() else 1

    @property
    def days(self) -> tuple[int, ...]:
        """Days of the week, Monday being 0."""
        return tuple(range(7)) if self.every.isdigit() else parse_days(self.every)

    def starts(self) -> Iterator[tuple[int, int, int]]:
        """Return (day of the week, hour, minute) of each start by the scheduler."""
        at = self.time
        for later in AGAIN:
            for day in self.days:
                # After midnight it is the next day.
                yield (day + (at.hour + later) // 24) % 7, (at.hour + later) % 24, at.minute


def parse_time(text: str) -> time:
    """Return the time of ``HH:MM``.

    Raises:
        UserError: it is not one.
    """
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text)
    if not found:
        raise UserError(f"--at {shortened(text)}: this must be a time such as 03:00")
    return time(int(found[1]), int(found[2]))


def parse_every(text: str) -> str:
    """Return ``every`` in its usual form.

    Raises:
        UserError: it is none of the forms.
    """
    text = text.strip().lower()
    if re.fullmatch(r"[1-9]\d{0,2}", text):
        return "day" if text == "1" else text
    return text if text in NAMED else ",".join(DAYS[day] for day in parse_days(text))


def parse_days(text: str) -> tuple[int, ...]:
    """Return the days of the week of a name or a list, Monday being 0."""
    names = NAMED.get(text) or tuple(SHORT.get(part.strip(), part.strip()) for part in text.split(","))
    if unknown := [name for name in names if name not in DAYS]:
        forms = "day, weekday, weekend, days such as mon,wed,fri, or a number of nights such as 2"
        raise UserError(f"--every {shortened(text)}: there is no day {shortened(unknown[0])}; give {forms}")
    return tuple(sorted({DAYS.index(name) for name in names}))


def said_every(schedule: Schedule) -> str:
    """Return the times in words."""
    if schedule.nights > 1:
        return f"every {schedule.nights} nights at {schedule.at}"
    named = {"day": "every night", "weekday": "every weekday", "weekend": "on weekends"}
    days = named.get(schedule.every) or "on " + ", ".join(day.capitalize() for day in schedule.every.split(","))
    return f"{days} at {schedule.at}"


def slug_of(name: Path) -> str:
    """Return a name for a scheduler: readable, and different for each absolute path."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.name.lower()).strip("-")[:30] or "adapter"
    return f"{readable}-{hashlib.sha256(str(name.absolute()).encode()).hexdigest()[:8]}"


def nominal_times(schedule: Schedule, since: datetime) -> Iterator[datetime]:
    """Return the nominal times after the installation, without an end."""
    day = since.astimezone().date()
    if _moment(day, schedule.time) <= since:
        day += timedelta(days=1)
    while day.weekday() not in schedule.days:
        day += timedelta(days=1)
    while True:
        if day.weekday() in schedule.days:
            yield _moment(day, schedule.time)
        day += timedelta(days=schedule.nights)


def _moment(day: date, at: time) -> datetime:
    # The local clock, also where summer time begins or ends in between.
    return datetime.combine(day, at).astimezone()


def next_time(schedule: Schedule, since: datetime, last: datetime | None, now: datetime) -> datetime:
    """Return the nominal time of the next night; it lies in the past where that night is overdue.

    Args:
        since: of the installation.
        last: start of the last night that counts.
    """
    for before, after in pairwise(nominal_times(schedule, since)):
        if before > now or after > now:
            return before if before > now or last is None or last < before else after
    raise AssertionError


def write_schedule(schedule: Schedule, **more: Any) -> None:
    """Write ``NAME/schedule.json``."""
    paths = {key: str(getattr(schedule, key)) for key in ("name", "config", "at", "every", "working_directory")}
    write_json(schedule.name / SCHEDULE_FILE, {"format": FORMAT, **paths, **more})


def read_schedule(name: Path) -> dict[str, Any] | None:
    """Return the content of ``NAME/schedule.json``; ``None`` where there is none.

    Raises:
        UserError: it is unreadable, or of a later version.
    """
    file = name / SCHEDULE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        datetime.fromisoformat(content["installed"])
        schedule_of(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, UserError) as error:
        raise UserError(f"{file}: this is not a schedule ({error}); `mlx-lora sleep install` writes it anew") from error
    check_format(content, file)
    return content


def schedule_of(content: dict[str, Any]) -> Schedule:
    """Return the schedule of what ``read_schedule`` read."""
    paths = {key: Path(content[key]) for key in ("name", "config", "working_directory")}
    schedule = Schedule(at=content["at"], every=content["every"], **paths)
    parse_time(schedule.at)
    parse_every(schedule.every)
    return schedule


def installed(name: Path, now: datetime | None = None) -> dict[str, Any] | None:
    """Return the installed night of an adapter: at, every, next_due, file, scheduler, config and rates.

    ``next_due`` is an ISO time in local time; it lies in the past where a night is overdue. ``None`` where no night is
    installed, or the scheduler's file has been removed.

    Raises:
        UserError: see ``read_schedule``.
    """
    content = read_schedule(name)
    if content is None or not Path(content["file"]).exists():
        return None
    due = _due(name, content, now or datetime.now().astimezone())
    kept = {key: content.get(key) for key in ("at", "every", "file", "scheduler", "config")}
    return {**kept, "rates": content.get("rates") or {}, "next_due": due.isoformat(timespec="minutes")}


def is_due(name: Path, now: datetime | None = None) -> tuple[bool, str]:
    """Return (True if ``sleep run --if-due`` should run a night now, the reason); True where none is installed."""
    now = now or datetime.now().astimezone()
    content = read_schedule(name)
    if content is None:
        return True, "no night is installed for this adapter, so that any time is its time"
    due = _due(name, content, now)
    if due > now:
        return False, f"the next night is due at {due:%Y-%m-%d %H:%M}"
    return True, f"this night was due at {due:%Y-%m-%d %H:%M}"


def _due(name: Path, content: dict[str, Any], now: datetime) -> datetime:
    last = next((cycle for cycle in cycles(name) if counts(cycle)), None)
    started = datetime.fromisoformat(last["started"]).astimezone() if last else None
    # A clock that was set back must not put off the next night by what it was ahead.
    started = None if started and started > now + timedelta(days=1) else started
    return next_time(schedule_of(content), datetime.fromisoformat(content["installed"]), started, now)


def cycles(name: Path) -> Iterator[dict[str, Any]]:
    """Return the contents of the ``cycle.json`` files, the last first; unreadable ones are passed over."""
    for place in sorted(name.glob(f"{CYCLES}/*"), reverse=True):
        content = read_night(place).content
        try:
            datetime.fromisoformat(content["started"])
            counts(content)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        yield content


def counts(cycle: dict[str, Any]) -> bool:
    """Return True if a cycle is over and was not refused by a guard, which an hour later may allow it."""
    if not cycle.get("ended"):
        return False
    guards = [step.get("result") or {} for step in cycle.get("steps") or [] if step.get("step") == "guards"]
    refused = any(not guard.get("ok", True) for result in guards[-1:] for guard in result.get("guards") or [])
    return not (cycle.get("decision") == "skipped" and refused)

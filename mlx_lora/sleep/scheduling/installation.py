"""Installation of the night with the system's scheduler: planned and shown first, then written, or taken back."""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ...config.loading import find_config
from ...errors import UserError
from ...files import remove_any, set_aside, write_atomic, writing
from ..config import load_sleep_config
from . import launchd, systemd
from .schedule import SCHEDULE_FILE, Schedule, parse_every, parse_time, read_schedule, write_schedule

# Variables that say where programs and models lie; launchd and systemd give a job next to none. No secrets.
VARIABLES = ("PATH", "PYTHONPATH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OLLAMA_HOST", "XDG_CACHE_HOME")


class Scheduler(Protocol):
    """A module that knows one scheduler: ``launchd`` or ``systemd``."""

    NAME: str

    def files_of(self, name: Path) -> list[Path]: ...  # noqa: D102
    def found(self) -> list[Path]: ...  # noqa: D102
    def name_in(self, file: Path) -> Path | None: ...  # noqa: D102
    def commands(self, name: Path) -> list[list[str]]: ...  # noqa: D102
    def is_loaded(self, name: Path) -> bool: ...  # noqa: D102
    def load(self, name: Path) -> None: ...  # noqa: D102
    def unload(self, name: Path) -> None: ...  # noqa: D102
    def forget(self) -> None: ...  # noqa: D102
    def advice(self, schedule: Schedule) -> list[str]: ...  # noqa: D102


SCHEDULERS: dict[str, Scheduler] = {launchd.NAME: launchd, systemd.NAME: systemd}


@dataclass
class Plan:
    """Everything that an installation writes, before it is written.

    Attributes:
        files: text of each file.
        before: content of each file as it is; ``None`` where there is none.
    """

    schedule: Schedule
    scheduler: Scheduler
    files: dict[Path, str]
    before: dict[Path, bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        self.before = {file: _content(file) for file in self.files}

    @property
    def differs(self) -> bool:
        """True if a file is there and another one is needed."""
        return bool(self.different())

    @property
    def is_there(self) -> bool:
        """True if every file is there and equal."""
        return all(self.before[file] == text.encode() for file, text in self.files.items())

    def different(self) -> list[Path]:
        """Return the files that are there and are not what is needed."""
        return [file for file, text in self.files.items() if self.before[file] not in (None, text.encode())]

    def diff(self) -> str:
        """Return the difference between what is there and what is needed."""
        lines: list[str] = []
        for file in self.different():
            old = (self.before[file] or b"").decode("utf-8", "replace").splitlines()
            new = self.files[file].splitlines()
            lines += difflib.unified_diff(old, new, str(file), f"{file} (new)", lineterm="")
        return "\n".join(lines)

    def to_text(self) -> str:
        """Return each file as it will be, or its difference from what is there, and the commands that load the job."""
        parts = [self.diff()] if self.differs else []
        parts += [f"{file}:\n{text}" for file, text in self.files.items() if self.before[file] is None]
        commands = [] if self.is_there else self.scheduler.commands(self.schedule.name)
        return "\n".join([*parts, *("$ " + shlex.join(command) for command in commands)])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``sleep install --json`` prints of the plan."""
        schedule = self.schedule
        return {
            "name": str(schedule.name),
            "config": str(schedule.config),
            "at": schedule.at,
            "every": schedule.every,
            "scheduler": self.scheduler.NAME,
            "files": [{"file": str(file), "content": text} for file, text in self.files.items()],
        }

    def state(self, replace: bool) -> str:
        """Return ``new``, ``replaced`` or ``unchanged``: what installing it makes of the files."""
        if self.differs:
            return "replaced"
        return "unchanged" if self.is_there and not replace else "new"


def plan(config_file: str, at: str, every: str, scheduler: str = "auto", platform: str = sys.platform) -> Plan:
    """Plan the nights of a config.

    Raises:
        UserError: the config does not load, or a time, a day or the scheduler is none.
    """
    here = Path.cwd()
    config = load_sleep_config(config_file)
    moment = parse_time(at)
    name = Path(os.path.abspath(here / config.directory))
    file = Path(os.path.abspath(find_config(config_file)))
    schedule = Schedule(name, file, f"{moment:%H:%M}", parse_every(every), here)
    chosen = SCHEDULERS[_scheduler_of(platform) if scheduler == "auto" else scheduler]
    variables = {
        key: os.environ[key] for key in VARIABLES if os.environ.get(key, "").isprintable() and key in os.environ
    }
    if chosen is systemd:
        # `min_battery: null` asks for AC power.
        return Plan(schedule, chosen, systemd.render(schedule, variables, config.guards.min_battery is None))
    return Plan(schedule, chosen, launchd.render(schedule, variables))


def _scheduler_of(platform: str) -> str:
    if platform == "darwin":
        return launchd.NAME
    if platform.startswith("linux"):
        return systemd.NAME
    raise UserError(f"nights are scheduled by launchd (macOS) or systemd (Linux), and this system is {platform}")


def install(planned: Plan, replace: bool, measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Write the files, load the job, and return ``schedule.json``.

    Args:
        replace: also where a file is there and differs.
        measure: of the speed of this machine, to compare each night with.

    Raises:
        UserError: a file differs, or the scheduler refuses; then everything is as it was.
    """
    schedule, scheduler = planned.schedule, planned.scheduler
    if planned.differs and not replace:
        files = ", ".join(map(str, planned.different()))
        raise UserError(f"{files}: this is there already and differs; --print shows how, --replace writes the new one")
    before = _schedule_or_none(schedule.name)
    was_loaded = scheduler.is_loaded(schedule.name)
    if before and planned.is_there and was_loaded and not replace:
        return before
    more: dict[str, Any] = {
        "installed": _installed_since(schedule, before),
        "scheduler": scheduler.NAME,
        "file": str(next(iter(planned.files))),
        "python": sys.executable,
        "rates": measure(),
        "sha256": {str(file): hashlib.sha256(text.encode()).hexdigest() for file, text in planned.files.items()},
    }
    with writing(schedule.name):
        schedule.name.mkdir(parents=True, exist_ok=True)
    own = schedule.name / SCHEDULE_FILE
    own_before = _content(own)
    try:
        # First: the job starts when it is loaded, and asks whether it is due.
        write_schedule(schedule, **more)
        for file, text in planned.files.items():
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
            if planned.before[file] != text.encode():
                write_atomic(file, text)
        if not (planned.is_there and was_loaded):
            scheduler.load(schedule.name)
    except BaseException as error:
        _take_back(planned, own, own_before, was_loaded)
        if isinstance(error, UserError):
            state = "is as it was" if any(planned.before.values()) else "has been taken back"
            raise UserError(f"{error}; {more['file']} {state}") from error
        raise
    return more


def _installed_since(schedule: Schedule, before: Mapping[str, Any] | None) -> str:
    """Return the time of the installation; the same nights go on counting from the first one."""
    if before and (before["at"], before["every"]) == (schedule.at, schedule.every):
        return str(before["installed"])
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _schedule_or_none(name: Path) -> dict[str, Any] | None:
    try:
        return read_schedule(name)
    except UserError:
        return None


def _take_back(planned: Plan, own: Path, own_before: bytes | None, was_loaded: bool) -> None:
    for file, content in [*planned.before.items(), (own, own_before)]:
        with suppress(UserError):
            remove_any(file) if content is None else write_atomic(file, content)
    with suppress(UserError):
        (planned.scheduler.load if was_loaded else planned.scheduler.unload)(planned.schedule.name)
    with suppress(OSError):
        # Only if nothing else is in it.
        own.parent.rmdir()


def uninstall(name: Path) -> list[Path]:
    """Unload an adapter's job, remove its files, and return them; a file that was edited is set aside.

    Raises:
        UserError: the scheduler refuses, in its own words; then everything is as it was.
    """
    written = (_schedule_or_none(name) or {}).get("sha256") or {}
    gone: list[Path] = []
    for scheduler in SCHEDULERS.values():
        files = [file for file in scheduler.files_of(name) if os.path.lexists(file)]
        if not files:
            continue
        scheduler.unload(name)
        for file in files:
            _remove(file, written.get(str(file)))
        scheduler.forget()
        gone += files
    if (own := name / SCHEDULE_FILE).exists():
        with writing(own):
            own.unlink()
        gone.append(own)
    return gone


def _remove(file: Path, written: str | None) -> None:
    content = _content(file)
    if written and content is not None and hashlib.sha256(content).hexdigest() != written:
        set_aside(file, "edited")
        return
    with writing(file):
        file.unlink()


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def nights() -> Iterable[tuple[Scheduler, Path]]:
    """Return (scheduler, file) of every night that is installed for this user."""
    return [(scheduler, file) for scheduler in SCHEDULERS.values() for file in scheduler.found()]

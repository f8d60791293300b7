"""Directories that the page shows: runs, adapters with generations or nights, and datasets below the models directory.

A client names them by their relative path. A name that leads out of the models directory, by ``..`` or by a link, names
nothing.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...backends.adapter_format import has_generations
from ...data.containers import SUFFIXES
from ...data.formats import stem_of
from ...runs.directory import RUN_FILE
from ...runs.incremental_state import ROUNDS
from ...sleep.record import CYCLES

# Directories that are looked into: a models directory may be somebody's home.
MOST_DIRECTORIES, MOST_DEPTH = 20_000, 8
# Seconds for which what was found is taken as it was.
FRESH = 2.0
SKIPPED = {"node_modules", "site-packages", "__pycache__", "checkpoints", "venv"}
# Reports of `mlx-lora eval --out`, by the names that people and the suites give them.
REPORT = re.compile(r"report_.*\.json|.*(eval|result|gate)[^/]*\.json", re.IGNORECASE)
MOST_REPORT_BYTES = 16 * 2**20
Value = TypeVar("Value")


class Remembered:
    """Values by name, each made anew when its key has changed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: dict[str, tuple[Hashable, Any]] = {}

    def get(self, name: str, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a name."""
        known = self._known.get(name)
        if known is not None and known[0] == key:
            return known[1]
        value = make()
        while len(self._known) >= self.most:
            self._known.pop(next(iter(self._known)), None)
        self._known[name] = (key, value)
        return value


@dataclass
class Found:
    """Directories by name, and report files.

    Attributes:
        runs: those of nights and rounds too, as ``adapters/agent/cycles/0007/run``.
        whole: False if there was more than is looked into.
    """

    runs: dict[str, Path] = field(default_factory=dict)
    adapters: dict[str, Path] = field(default_factory=dict)
    datasets: dict[str, Path] = field(default_factory=dict)
    reports: list[Path] = field(default_factory=list)
    whole: bool = True


class Models:
    """The models directory, with what was found there a moment ago.

    Attributes:
        without: a directory in it whose runs are shown as jobs.
    """

    def __init__(self, directory: Path, without: Path | None = None) -> None:
        self.directory, self.without = Path(directory), without
        self._lock = threading.Lock()
        self._found, self._until = Found(), 0.0

    def find(self) -> Found:
        """Return what is there."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = scan(self.directory, self.without)
                self._until = time.monotonic() + FRESH
            return self._found

    def path(self, name: str) -> Path | None:
        """Return the directory that a name means; ``None``: it names none below the models directory."""
        parts = name.split("/")
        if not name or "\0" in name or any(part in ("", "..") for part in parts):
            return None
        root = self.directory.resolve()
        try:
            place = self.directory / name
            inside = place.resolve().is_relative_to(root) and place.is_dir()
        except (OSError, ValueError, RuntimeError):
            return None
        return place if inside else None


def scan(root: Path, without: Path | None = None) -> Found:
    """Return the directories below ``root``; hidden ones, and what a run holds, are passed over."""
    found = Found()
    waiting = [(root, 0)]
    looked = 0
    while waiting:
        place, depth = waiting.pop()
        if place == without:
            continue
        looked += 1
        if looked > MOST_DIRECTORIES:
            found.whole = False
            break
        folders, files = _entries(place)
        name = "." if place == root else place.relative_to(root).as_posix()
        found.reports += [place / file for file in files if REPORT.fullmatch(file)]
        if has_generations(place) or CYCLES in folders:
            found.adapters[name] = place
            found.runs |= {run.relative_to(root).as_posix(): run for run in _runs_of_adapter(place)}
            continue
        if RUN_FILE in files:
            found.runs[name] = place
            continue
        if _hold_dataset(files):
            found.datasets[name] = place
        if depth < MOST_DEPTH:
            waiting += [(place / folder, depth + 1) for folder in sorted(folders, reverse=True)]
        elif folders:
            found.whole = False
    return found


def is_dataset(place: Path) -> bool:
    """Return True if a directory is a dataset: it has a file for training."""
    return _hold_dataset(_entries(place)[1])


def _hold_dataset(files: Sequence[str]) -> bool:
    return any(stem_of(file) == "train" and file.removesuffix(".gz").endswith(SUFFIXES) for file in files)


def _runs_of_adapter(adapter: Path) -> Iterator[Path]:
    for kind in (CYCLES, ROUNDS):
        folders, _ = _entries(adapter / kind)
        for folder in sorted(folders):
            # A round is a run itself; that of a night lies in the night.
            for run in (adapter / kind / folder, adapter / kind / folder / "run"):
                if (run / RUN_FILE).is_file():
                    yield run


def _entries(place: Path) -> tuple[list[str], list[str]]:
    """Return the names of the directories and of the files in a directory; links to directories are not followed."""
    folders, files = [], []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in SKIPPED:
                        folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
    except OSError:
        pass
    return folders, files


def stamp(file: Path) -> tuple[int, int]:
    """Return the time and the size of a file, which change with its content; zeros where there is none."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size

"""Lock of an adapter's nights, with its owner: process, its start, and the machine's boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import file_lock, is_locked, write_json, writing
from ..processes import recorded_owner, this_owner

LOCK, OWNER = "sleep.lock", "sleep.owner.json"


@contextmanager
def night_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of an adapter's nights while the block runs; it ends with the process, however that ends.

    The lock is the system's own, so that a process that reuses the number of a dead owner does not hold it; the owner
    is only recorded to be named.

    Raises:
        UserError: another night runs.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with file_lock(directory / LOCK, f"{directory}: {_held(directory)}"):
        write_json(directory / OWNER, this_owner())
        try:
            yield
        finally:
            (directory / OWNER).unlink(missing_ok=True)


def _held(directory: Path) -> str:
    owner = read_owner(directory)
    who = f"process {owner['pid']}, since {owner['started']}" if owner else "another process"
    return f"a night is running there ({who}); wait for it, or end that process"


def read_owner(directory: Path) -> dict[str, Any] | None:
    """Return ``{"pid", "started", "boot"}`` of the process that holds the lock, as it was recorded; None if unknown."""
    return recorded_owner(directory / OWNER)


def is_running(directory: Path) -> bool:
    """Return True if a night is running now."""
    return is_locked(directory / LOCK)

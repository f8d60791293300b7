"""System memory: total and available, of this machine or this container's share of it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# (limit, usage, statistics, the statistics' name of the page cache that can be dropped) of both versions of cgroups.
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def memory_sizes() -> tuple[int, int | None]:
    """Return (total, available) bytes, the latter ``None`` where it is unknown; in a container, its share."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sys.platform == "darwin":
        return total, available_of_vm_stat(command_output("vm_stat"))
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text_of(Path("/proc/meminfo")), re.M)
    available = int(found[1]) * 1024 if found else None
    for limit, free in _cgroup_limits(total):
        total, available = min(total, limit), None if available is None else min(available, free)
    return total, available


def _cgroup_limits(total: int) -> list[tuple[int, int]]:
    """Return (limit, free) of this process's cgroups; one without a limit says "max", or more than any memory."""
    found = []
    for limit, usage, statistics, cache in CGROUP_FILES:
        most, used = text_of(CGROUPS / limit).strip(), text_of(CGROUPS / usage).strip()
        if most.isdigit() and int(most) < total:
            droppable = re.search(rf"^{cache} (\d+)$", text_of(CGROUPS / statistics), re.M)
            taken = int(used) - (int(droppable[1]) if droppable else 0) if used.isdigit() else 0
            found.append((int(most), max(0, int(most) - taken)))
    return found


def available_of_vm_stat(text: str) -> int | None:
    """Return the bytes that macOS can give without swapping, from the output of ``vm_stat``."""
    page = re.search(r"page size of (\d+) bytes", text)
    # Purgeable pages are counted among these already.
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.", text, re.M)
    return int(page[1]) * sum(map(int, pages)) if page and pages else None


def peak_resident() -> int:
    """Return the largest resident set of this process in bytes, the mapped files included.

    Linux counts in ``ru_maxrss`` what the parent had before exec, which ``VmHWM`` does not.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", text_of(Path("/proc/self/status")), re.M)
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def text_of(file: Path) -> str:
    """Return the content of a kernel file; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def command_output(*command: str) -> str:
    """Return the output of a system program; empty where there is no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout

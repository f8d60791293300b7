"""The machine itself: its chip, its memory, its disks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .finding import MISSING, NOTE, OK, Finding, gigabytes

# Less than this, and a download or a run's checkpoints may not fit.
LITTLE_DISK = 10e9
# Less than this, and even a base of half a billion parameters may not train.
LITTLE_MEMORY = 2e9
# Of both versions; one without a limit says "max", or a number larger than any memory.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def chip() -> str:
    """The processor's name, as its maker gives it."""
    name = ""
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    else:
        # Arm's processors have no such line.
        found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.M)
        name = found[1].strip() if found else ""
    return name or platform.processor() or platform.machine()


def machine() -> Finding:
    """Chip, cores, operating system and Python."""
    on_mac = sys.platform == "darwin"
    system = f"macOS {platform.mac_ver()[0]}" if on_mac else f"{platform.system()} {platform.release()}"
    found = f"{chip()}, {os.cpu_count()} cores; {system}, {platform.machine()}; Python {platform.python_version()}"
    if on_mac and platform.machine() == "x86_64" and _sysctl("sysctl.proc_translated") == "1":
        advice = "this Python is an Intel one under Rosetta, for which MLX has no wheel; install an arm64 Python"
        return Finding("machine", MISSING, found, advice)
    return Finding("machine", OK, found)


def memory(recommended: str = "") -> Finding:
    """Total and available memory.

    Args:
        recommended: what a GPU has for a model, in words.
    """
    total, available = memory_sizes()
    found = gigabytes(total)
    found += f", {gigabytes(available)} of it available" if available is not None else ""
    found += f"; {recommended}" if recommended else ""
    if available is not None and available < LITTLE_MEMORY:
        return Finding("memory", NOTE, found, "close other programs; `train --dry-run` says what a run needs")
    return Finding("memory", OK, found)


def memory_sizes() -> tuple[int, int | None]:
    """(total, available) bytes, the latter ``None`` where the system does not say; in a container, its share."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sys.platform == "darwin":
        return total, available_of_vm_stat(_output("vm_stat"))
    limits = [int(text) for text in (_text(Path(file)).strip() for file in CGROUP_LIMITS) if text.isdigit()]
    limit = min(total, *limits) if limits else total
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.M)
    return limit, min(int(found[1]) * 1024, limit) if found else None


def available_of_vm_stat(text: str) -> int | None:
    """Bytes that macOS can give without swapping, of what its ``vm_stat`` prints."""
    page = re.search(r"page size of (\d+) bytes", text)
    # What can be purged is counted among these already.
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.", text, re.M)
    return int(page[1]) * sum(map(int, pages)) if page and pages else None


def disk(name: str, place: Path, elsewhere: str) -> Finding:
    """Free space where a directory lies, or would lie.

    Args:
        elsewhere: how to use another place instead.
    """
    there = nearest(place)
    free = shutil.disk_usage(there).free
    found = f"{gigabytes(free)} free at {place}"
    if not os.access(there, os.W_OK):
        return Finding(name, NOTE, f"{found}, which may not be written", f"change its permissions, or {elsewhere}")
    if free < LITTLE_DISK:
        return Finding(name, NOTE, found, f"a model or a run may need more: make room, or {elsewhere}")
    return Finding(name, OK, found)


def nearest(place: Path) -> Path:
    """The place itself, or the nearest directory above it that exists."""
    return next((path for path in (place, *place.parents) if path.exists()), Path("/"))


def _text(file: Path) -> str:
    """A file of the kernel's; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    return _output("sysctl", "-n", name).strip()


def _output(*command: str) -> str:
    """What a program of the system's prints; empty where there is no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout

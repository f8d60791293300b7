"""Hardware findings: the chip, memory and disks of the machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from ..memory import command_output, memory_sizes, text_of
from .finding import MISSING, NOTE, OK, Finding, gigabytes

# With less than this, a download or a run's checkpoints may not fit.
LITTLE_DISK = 10e9
# With less than this, even a base of half a billion parameters may not train.
LITTLE_MEMORY = 2e9


def chip() -> str:
    """Return the processor's name, as its maker gives it."""
    name = ""
    if sys.platform == "darwin":
        name = command_output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    else:
        # Arm's processors have no such line.
        found = re.search(r"^model name\s*:\s*(.+)$", text_of(Path("/proc/cpuinfo")), re.M)
        name = found[1].strip() if found else ""
    return name or platform.processor() or platform.machine()


def machine() -> Finding:
    """Report the chip, cores, operating system and Python version."""
    on_mac = sys.platform == "darwin"
    system = f"macOS {platform.mac_ver()[0]}" if on_mac else f"{platform.system()} {platform.release()}"
    found = f"{chip()}, {os.cpu_count()} cores; {system}, {platform.machine()}; Python {platform.python_version()}"
    if (
        on_mac
        and platform.machine() == "x86_64"
        and command_output("sysctl", "-n", "sysctl.proc_translated").strip() == "1"
    ):
        advice = "this Python is an Intel one under Rosetta, for which MLX has no wheel; install an arm64 Python"
        return Finding("machine", MISSING, found, advice)
    return Finding("machine", OK, found)


def memory(recommended: str = "") -> Finding:
    """Report total and available memory.

    Args:
        recommended: a GPU's memory for a model, in words.
    """
    total, available = memory_sizes()
    found = gigabytes(total)
    found += f", {gigabytes(available)} of it available" if available is not None else ""
    found += f"; {recommended}" if recommended else ""
    if available is not None and available < LITTLE_MEMORY:
        return Finding("memory", NOTE, found, "close other programs; `train --dry-run` says what a run needs")
    return Finding("memory", OK, found)


def disk(name: str, place: Path, elsewhere: str) -> Finding:
    """Report the free space where a directory is, or would be.

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
    """Return the place itself, or the nearest directory above it that exists."""
    return next((path for path in (place, *place.parents) if path.exists()), Path("/"))

"""Guards of the night: disk, power, memory and heat, each a sentence that a person understands.

Where the system says something unknown, the guard lets the night begin and says so.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import shortened
from ..files import nearest_existing
from ..memory import command_output, memory_sizes, text_of
from .config import GuardsConfig

POWER_SUPPLIES = Path("/sys/class/power_supply")
# Thermal warning levels of IOKit: normal 0, danger 5, crisis 10, unknown 255.
DANGER, UNKNOWN_LEVEL = 5, 255
# Percent of its speed below which a CPU that macOS slows down for heat is left alone.
SLOW_CPU = 50


@dataclass
class GuardResult:
    """Result of one guard; ``said`` is the reason either way."""

    name: str
    ok: bool
    said: str


@dataclass
class Power:
    """Power source; ``on_mains`` and ``percent`` are ``None`` where the system does not say."""

    on_mains: bool | None
    percent: float | None = None


def check_guards(guards: GuardsConfig, directory: Path, platform: str = sys.platform) -> list[GuardResult]:
    """Check whether a night may begin now.

    Args:
        directory: where it writes; it may not exist yet.
        platform: as ``sys.platform``.
    """
    on_mac = platform == "darwin"
    power = power_of_pmset(command_output("pmset", "-g", "batt")) if on_mac else power_of_supplies(POWER_SUPPLIES)
    heat = heat_of_pmset(command_output("pmset", "-g", "therm")) if on_mac else (True, "not read on this system")
    return [
        _disk(guards.min_disk_gb, directory),
        judge_power(power, guards.min_battery),
        judge_memory(memory_sizes()[1], guards.min_memory_gb),
        GuardResult("thermal", *heat),
    ]


def _disk(needed: float, directory: Path) -> GuardResult:
    try:
        free = shutil.disk_usage(nearest_existing(directory)).free / 1e9
    except OSError as error:
        return GuardResult("disk", False, f"the disk of {directory} cannot be read ({error.strerror or error})")
    said = f"{free:.1f} GB free at {directory}"
    if free < needed:
        return GuardResult("disk", False, f"{said}, {needed:g} GB are asked for (guards.min_disk_gb); make room")
    return GuardResult("disk", True, said)


def judge_memory(available: float | None, needed: float) -> GuardResult:
    """Compare the available bytes with the gigabytes that are asked for."""
    if available is None:
        return GuardResult("memory", True, "the system does not say how much memory is available")
    said = f"{available / 1e9:.1f} GB of memory available"
    if available < needed * 1e9:
        return GuardResult("memory", False, f"{said}, {needed:g} GB are asked for (guards.min_memory_gb)")
    return GuardResult("memory", True, said)


def judge_power(power: Power, min_battery: float | None) -> GuardResult:
    """Compare the power source with the limit.

    Args:
        min_battery: percent that a battery must have; ``None`` asks for AC power.
    """
    if power.on_mains is None:
        return GuardResult("power", True, "the system does not say whether this machine is on battery")
    if power.on_mains:
        return GuardResult("power", True, "on AC power")
    said = "on battery" if power.percent is None else f"on battery at {power.percent:.0f} %"
    if min_battery is None:
        return GuardResult("power", False, f"{said}, AC power is asked for (guards.min_battery allows a battery)")
    if power.percent is None:
        return GuardResult("power", True, f"{said}, and the system does not say at how many percent")
    if power.percent < min_battery:
        return GuardResult("power", False, f"{said}, AC power or {min_battery:g} % is asked for")
    return GuardResult("power", True, f"{said}, {min_battery:g} % is asked for")


def power_of_pmset(text: str) -> Power:
    """Return the power source in the output of ``pmset -g batt``."""
    source = re.search(r"^(?:Now|Currently) drawing from '([^']*)'", text, re.M)
    if not source:
        return Power(None)
    if source[1] == "AC Power":
        return Power(True)
    if source[1] not in ("Battery Power", "UPS Power"):
        return Power(None)
    # A UPS is listed beside the internal battery; the fuller one says nothing about the emptier.
    charges = [int(found) for found in re.findall(r"^ -.*?\t\s*(\d+)%", text, re.M)]
    return Power(False, min(charges, default=None))


def heat_of_pmset(text: str) -> tuple[bool, str]:
    """Return (True where it is cool enough, a sentence) of the output of ``pmset -g therm``."""
    level = re.search(r"Thermal Warning Level\s*=\s*(\d+)", text)
    speed = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", text)
    if level and DANGER <= int(level[1]) != UNKNOWN_LEVEL:
        return False, f"macOS warns that this machine is too hot (thermal warning level {level[1]})"
    if speed and int(speed[1]) < SLOW_CPU:
        return False, f"macOS runs the CPU at {speed[1]} % of its speed to cool it; let it cool down"
    if speed and int(speed[1]) < 100:
        return True, f"macOS runs the CPU at {speed[1]} % of its speed to cool it"
    if level or speed or "No thermal warning level has been recorded" in text:
        return True, "macOS gives no thermal warning"
    said = shortened(text.strip().split("\n")[0]) if text.strip() else "nothing"
    return True, f"the heat is unknown: pmset -g therm says {said}"


def power_of_supplies(directory: Path) -> Power:
    """Return the power source of Linux, from ``/sys/class/power_supply``; no battery is mains."""
    supplies = [_supply(place) for place in sorted(directory.glob("*"))]
    # A mouse's battery has the scope of a device.
    batteries = [s for s in supplies if s["type"] == "Battery" and s["scope"] != "Device" and s["present"] != "0"]
    if not batteries or any(s["online"] == "1" for s in supplies if s["type"] not in ("Battery", "UPS")):
        return Power(True)
    states = {battery["status"] for battery in batteries}
    if "Discharging" not in states:
        return Power(True if states & {"Charging", "Full", "Not charging"} else None)
    charges = [int(battery["capacity"]) for battery in batteries if battery["capacity"].isdigit()]
    return Power(False, sum(charges) / len(charges) if charges else None)


def _supply(place: Path) -> dict[str, str]:
    names = ("type", "scope", "present", "online", "status", "capacity")
    return {name: text_of(place / name).strip() for name in names}

"""Suspension of the machine in the middle of a night, and clocks that were set.

Two clocks tell: one that stands still while the machine sleeps and one that does not. Python's ``time.monotonic`` is
the first kind on Linux and macOS, but POSIX's ``CLOCK_MONOTONIC`` is the second kind on macOS, so each is named here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# Seconds; less is an adjustment of the clock, or a busy machine.
SLEPT = 60.0
Clock = Callable[[], float]


def _clock(name: str, otherwise: Clock) -> Clock:
    number = getattr(time, name, None)
    return otherwise if number is None else lambda: time.clock_gettime(number)


def awake_clock(platform: str = sys.platform) -> Clock:
    """Return the clock that stands still while the machine sleeps."""
    return _clock("CLOCK_UPTIME_RAW" if platform == "darwin" else "CLOCK_MONOTONIC", time.monotonic)


def continuous_clock(platform: str = sys.platform) -> Clock:
    """Return the clock that counts sleep as well and that nobody can set; the wall clock where there is none."""
    return _clock("CLOCK_MONOTONIC_RAW" if platform == "darwin" else "CLOCK_BOOTTIME", time.time)


class SuspensionClock:
    """Seconds that the machine slept, from one call to the next.

    Attributes:
        said: sentence about the last call: that the machine slept, or that the clock was set; ``None`` where nothing
            happened.
    """

    def __init__(self, wall: Clock = time.time, awake: Clock | None = None, continuous: Clock | None = None) -> None:
        self._clocks = (wall, awake or awake_clock(), continuous or continuous_clock())
        self._before = self._read()
        self.said: str | None = None

    def _read(self) -> tuple[float, ...]:
        return tuple(clock() for clock in self._clocks)

    def suspended(self) -> float:
        """Return the seconds since the last call that the machine slept, never negative; over 60 it did sleep.

        A wall clock that jumps ahead counts as sleep: a virtual machine that was paused has no other sign.
        """
        now = self._read()
        wall, awake, continuous = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        slept, moved = continuous - awake, wall - continuous
        if slept > SLEPT:
            self.said = f"the machine slept for {duration(slept)} in the middle"
        elif moved < -SLEPT:
            self.said = f"the clock was set back by {duration(-moved)}"
        elif wall - awake > SLEPT:
            self.said = f"the clock jumped ahead by {duration(wall - awake)}: it was set, or the machine was paused"
        else:
            self.said = None
        return max(0.0, slept, wall - awake)


def duration(seconds: float) -> str:
    """Return a duration in words, such as ``2 h 10 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"

"""The clocks of a night: sleep, a clock that was set, and neither."""

from __future__ import annotations

import sys
import time

import pytest

from mlx_lora.sleep.clock import SuspensionClock, awake_clock, continuous_clock, duration


class Machine:
    """A machine whose clocks a test moves."""

    def __init__(self):
        self.wall, self.awake, self.continuous = 1.7e9, 1000.0, 5000.0
        self.clock = SuspensionClock(lambda: self.wall, lambda: self.awake, lambda: self.continuous)

    def pass_time(self, awake=0.0, asleep=0.0, set_by=0.0):
        self.awake += awake
        self.continuous += awake + asleep
        self.wall += awake + asleep + set_by
        return self.clock.suspended()


def test_a_lid_that_was_closed():
    machine = Machine()
    assert machine.pass_time(awake=3600) == 0
    assert machine.clock.said is None
    assert machine.pass_time(awake=10, asleep=7800) == pytest.approx(7800)
    assert machine.clock.said == "the machine slept for 2 h 10 min in the middle"
    # Told once.
    assert machine.pass_time(awake=10) == 0
    assert machine.clock.said is None


def test_a_short_adjustment_is_nothing():
    machine = Machine()
    assert machine.pass_time(awake=10, asleep=59) == pytest.approx(59)
    assert machine.clock.said is None
    machine.pass_time(awake=10, set_by=-59)
    assert machine.clock.said is None


def test_a_clock_that_was_set_back():
    machine = Machine()
    assert machine.pass_time(awake=10, set_by=-3600) == 0
    assert machine.clock.said == "the clock was set back by 1 h"
    # Asleep at the same time: the sleep is what counts.
    assert machine.pass_time(awake=10, asleep=600, set_by=-3600) == pytest.approx(600)
    assert machine.clock.said == "the machine slept for 10 min in the middle"


def test_a_clock_that_was_set_ahead():
    machine = Machine()
    assert machine.pass_time(awake=10, set_by=3600) == pytest.approx(3600)
    assert machine.clock.said == "the clock jumped ahead by 1 h: it was set, or the machine was paused"


def test_the_clocks_of_this_machine():
    clock = SuspensionClock()
    assert clock.suspended() < 60
    assert clock.said is None
    awake, continuous = awake_clock(), continuous_clock()
    before = awake(), continuous()
    time.sleep(0.05)
    assert awake() - before[0] >= 0.04
    assert continuous() - before[1] >= 0.04
    # Only the second counts sleep, so that it is never behind.
    assert continuous() >= awake() - 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="the clocks' names are Linux's")
def test_each_clock_is_the_one_meant():
    assert awake_clock()() == pytest.approx(time.clock_gettime(time.CLOCK_MONOTONIC), abs=5)
    assert continuous_clock()() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    # Linux has no CLOCK_UPTIME_RAW.
    assert awake_clock("darwin")() == pytest.approx(time.monotonic(), abs=5)


@pytest.mark.parametrize(
    ("seconds", "said"), [(29, "29 s"), (61, "1 min"), (3600, "1 h"), (3599, "1 h"), (7800, "2 h 10 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said

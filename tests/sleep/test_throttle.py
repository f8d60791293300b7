"""The speed probe: real rates, and the sentence about a job that is throttled."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_lora.processes import python_environment
from mlx_lora.sleep.scheduling import throttle
from mlx_lora.sleep.scheduling.throttle import measure_rates, rates_tonight, speed_of, throttle_sentence


def test_the_rates_of_this_machine():
    rates = measure_rates()
    assert set(rates) == {"mlx_small", "mlx_large"}
    assert all(rate > 0 for rate in rates.values())
    assert throttle_sentence(rates, rates) is None


def test_without_mlx_numpy_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    rates = measure_rates()
    assert set(rates) == {"numpy_small", "numpy_large"}
    assert all(rate > 0 for rate in rates.values())


def test_a_throttled_job():
    at_install = {"mlx_small": 20.0, "mlx_large": 1000.0}
    said = throttle_sentence({"mlx_small": 2.2, "mlx_large": 900.0}, at_install, platform="darwin")
    assert said.startswith("macOS is throttling this job: 11 % of the speed at installation; ")
    assert all(word in said for word in ("ProcessType Interactive", "lid", "low power mode"))
    assert "macOS" not in throttle_sentence({"mlx_small": 2.2}, at_install, platform="linux")
    assert throttle_sentence({"mlx_small": 10.0, "mlx_large": 500.0}, at_install) is None
    assert throttle_sentence({"mlx_small": 10.0, "mlx_large": 499.0}, at_install)
    assert throttle_sentence({"mlx_small": 2.2, "mlx_large": 900.0}, at_install, slow=0.1) is None


def test_rates_that_cannot_be_compared():
    assert speed_of({"numpy_small": 1.0}, {"mlx_small": 100.0}) is None
    assert throttle_sentence({"numpy_small": 1.0}, {"mlx_small": 100.0}) is None
    assert throttle_sentence({}, {}) is None
    assert throttle_sentence({"mlx_small": 1.0}, {"mlx_small": 0.0}) is None


def test_one_good_run_of_several_is_enough(monkeypatch):
    """Another program that takes the CPU for most of the time does not make the machine slow."""
    clock, costs = [0.0], iter([0.01, *[0.5, 0.5, 0.5, 0.01, *[0.5] * 20]])

    def run():
        clock[0] += next(costs)

    monkeypatch.setattr(throttle, "RUN_SECONDS", 0.0)
    monkeypatch.setattr(throttle, "RUNS", 6)
    monkeypatch.setattr(throttle.time, "perf_counter", lambda: clock[0])
    assert throttle._best_rate(run, 100) == pytest.approx(2e6 / 0.01 / 1e9)


def test_nothing_heavy_is_imported_with_the_modules():
    """The plain side of the night starts fast, and survives an MLX that does not load."""
    names = ("schedule", "launchd", "systemd", "installation", "throttle")
    code = "import sys\nfrom mlx_lora.sleep import guards, clock\n"
    code += f"from mlx_lora.sleep.scheduling import {', '.join(names)}\n"
    code += "print([name for name in sys.modules if name in {'mlx', 'torch', 'numpy'}])"
    done = subprocess.run([sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_night_that_seems_slow_is_measured_again(monkeypatch):
    measured = iter([{"mlx_small": 4.0, "mlx_large": 90.0}, {"mlx_small": 9.0, "mlx_large": 70.0}])
    waited = []
    monkeypatch.setattr(throttle, "measure_rates", lambda: next(measured))
    monkeypatch.setattr(throttle.time, "sleep", waited.append)
    assert rates_tonight({"mlx_small": 10.0, "mlx_large": 100.0}) == {"mlx_small": 9.0, "mlx_large": 90.0}
    assert waited == [5.0]
    measured = iter([{"mlx_small": 4.0}] * 3)
    assert rates_tonight({"mlx_small": 10.0}) == {"mlx_small": 4.0}
    measured = iter([{"mlx_small": 4.0}])
    assert rates_tonight({}) == {"mlx_small": 4.0}

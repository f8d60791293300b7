"""Speed probe: matrix products at installation and each night, since macOS may throttle a job in the background."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

# Rows and columns of the square matrices: one product of the small kind is mostly dispatch, one of the large kind is
# mostly arithmetic. Background jobs lose both, in different measure.
SIZES = {"small": 64, "large": 1024}
# The best of many short runs counts: another program takes time, and never gives any. After a pause the system lets a
# process run at once, so that even on a busy machine some run is undisturbed; slow cores are slow in each.
RUNS = 30
RUN_SECONDS = 0.004
PAUSE = 0.01
MOST_SECONDS = 1.5
# A night that seems slow is measured again after so many seconds.
AGAIN_AFTER = (5.0, 20.0)
HELP = (
    "keep ProcessType Interactive in the plist (`mlx-lora sleep install --replace` writes it), leave the lid open and "
    "the power adapter connected, and turn off the low power mode in System Settings, Battery"
)


def measure_rates() -> dict[str, float]:
    """Return GFLOP/s of small and large products, the best of many short runs; takes about 2 seconds.

    On the device that MLX trains on, else on the CPU in numpy. The keys begin with the library, so that rates of two
    libraries are never compared.
    """
    try:
        return _rates("mlx", _mlx_product)
    except Exception:
        # Not installed, or broken: `doctor` says which.
        return _rates("numpy", _numpy_product)


def _rates(library: str, product: Callable[[int], Callable[[], object]]) -> dict[str, float]:
    from ...backends.mlx.blas import one_core_free

    # A product on all cores waits for the one that another program has.
    with one_core_free():
        return {f"{library}_{name}": round(_best_rate(product(size), size), 3) for name, size in SIZES.items()}


def rates_tonight(at_install: Mapping[str, float], slow: float = 0.5) -> dict[str, float]:
    """Return the rates as ``measure_rates`` does, the best of up to three times where they seem slow."""
    rates = measure_rates()
    for seconds in AGAIN_AFTER:
        if throttle_sentence(rates, at_install, slow) is None:
            break
        time.sleep(seconds)
        again = measure_rates()
        rates = {name: max(rate, again.get(name, 0.0)) for name, rate in rates.items()}
    return rates


def _best_rate(run: Callable[[], object], size: int) -> float:
    """Return the best GFLOP/s of a product of two square matrices."""
    run()
    best, begin = 0.0, time.perf_counter()
    for _ in range(RUNS):
        if best and time.perf_counter() - begin > MOST_SECONDS:
            break
        time.sleep(PAUSE)
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < RUN_SECONDS or not done:
            run()
            done += 1
        best = max(best, done * 2 * size**3 / max(passed, 1e-9) / 1e9)
    return best


def _mlx_product(size: int) -> Callable[[], object]:
    # First, since it loads the fast BLAS.
    from ...backends import mlx as _  # noqa: F401, I001
    import mlx.core as mx

    left, right = mx.ones((size, size)), mx.ones((size, size))
    mx.eval(left, right)
    return lambda: mx.eval(left @ right)


def _numpy_product(size: int) -> Callable[[], object]:
    import numpy as np

    left, right = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    return lambda: left @ right


def speed_of(now: Mapping[str, float], at_install: Mapping[str, float]) -> float | None:
    """Return the lowest rate as a share of the rate at installation; ``None`` where nothing can be compared."""
    shares = [now[name] / at_install[name] for name in now if at_install.get(name, 0) > 0]
    return min(shares, default=None)


def throttle_sentence(
    now: Mapping[str, float], at_install: Mapping[str, float], slow: float = 0.5, platform: str = sys.platform
) -> str | None:
    """Return a sentence where this job has less than ``slow`` times the speed at installation."""
    speed = speed_of(now, at_install)
    if speed is None or speed >= slow:
        return None
    if platform == "darwin":
        return f"macOS is throttling this job: {speed * 100:.0f} % of the speed at installation; {HELP}"
    return f"this job is slow: {speed * 100:.0f} % of the speed at installation; other programs or a power mode take it"

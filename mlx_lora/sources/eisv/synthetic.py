"""Synthetic trajectories: states that the classifier assigns to a given shape, for every seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from .trajectory import (
    DIMENSIONS,
    RANGE_THRESHOLD,
    RATE_THRESHOLD,
    TrajectoryShape,
    classify_trajectory,
    compute_trajectory_window,
    known_shape,
)

V_MAX = 0.3
NOISE = 0.01
# A mean rate must be *above* its threshold: aim this much past it.
PAST = 1.01
# The largest change a dimension can make while its shape's rule holds; it bounds the duration.
MAX_CHANGE = {
    TrajectoryShape.RISING_ENTROPY: 0.96,
    TrajectoryShape.FALLING_ENERGY: RANGE_THRESHOLD - 0.005,
    TrajectoryShape.VOID_RISING: V_MAX - 0.01,
}
# A wobble of I between samples has to reach the rate threshold within [0, 1].
MAX_WOBBLE = 0.5

Series = dict[str, list[float]]


def generate_trajectory(
    shape: TrajectoryShape | str,
    n_points: int = 20,
    dt: float = 1.0,
    seed: int | None = None,
    *,
    noise_scale: float | None = None,
) -> list[dict[str, float]]:
    """Generate states of a given shape, in [0, 1] with V ≤ 0.3; drift_dissonance carries ``ethical_drift``.

    Args:
        n_points: states, at least 3 (convergence is defined by second differences).
        dt: seconds between states; a smaller one is used where the shape cannot happen at this pace.
        noise_scale: standard deviation of the noise, halved until the classifier agrees.

    Raises:
        ValueError: an unknown shape, fewer than 3 points, or a dt that is not above 0.
    """
    shape = known_shape(shape)
    if n_points < 3:
        raise ValueError(f"n_points is {n_points}: a trajectory needs at least 3 states")
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt is {dt}: it must be a number of seconds above 0")
    rng = random.Random(seed)
    dt = _possible_dt(shape, n_points, dt)
    clean = _base(rng, n_points)
    _DRAW[shape](rng, clean, n_points, dt)
    noise = NOISE if noise_scale is None else noise_scale
    for attempt in range(80):
        states = _states(clean, rng, noise if attempt < 79 else 0.0, dt)
        if classify_trajectory(compute_trajectory_window(states)) is shape:
            return states
        noise /= 2
    raise ValueError(f"{shape.value} cannot be reached with {n_points} points at dt {dt}")


def _possible_dt(shape: TrajectoryShape, n: int, dt: float) -> float:
    if shape in MAX_CHANGE:
        return min(dt, MAX_CHANGE[shape] / (RATE_THRESHOLD * PAST * (n - 1)))
    if shape is TrajectoryShape.SETTLED_PRESENCE:
        return min(dt, MAX_WOBBLE / (RATE_THRESHOLD * PAST))
    return dt


def _base(rng: random.Random, n: int) -> Series:
    level = {
        "E": rng.uniform(0.3, 0.7),
        "I": rng.uniform(0.4, 0.8),
        "S": rng.uniform(0.1, 0.5),
        "V": rng.uniform(0.02, 0.2),
    }
    return {key: [value] * n for key, value in level.items()}


def _states(clean: Series, rng: random.Random, noise: float, dt: float) -> list[dict[str, float]]:
    states = []
    for i in range(len(clean["E"])):
        state = {"t": i * dt}
        for key in DIMENSIONS:
            top = V_MAX if key == "V" else 1.0
            state[key] = min(top, max(0.0, clean[key][i] + rng.gauss(0, noise)))
        if "ethical_drift" in clean:
            state["ethical_drift"] = clean["ethical_drift"][i]
        states.append(state)
    return states


def _ramp(
    rng: random.Random, n: int, duration: float, top: float, usual: tuple[float, float], rated: bool
) -> list[float]:
    """Return a ramp from 0 over n points; ``rated`` ones exceed the rate threshold."""
    least = RATE_THRESHOLD * PAST * duration if rated else 0.0
    low = min(top, max(least, usual[0]))
    change = rng.uniform(low, min(top, max(low, usual[1])))
    return [change * i / (n - 1) for i in range(n)]


def _settled(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    least = RATE_THRESHOLD * PAST * dt
    swing = max(least, min(MAX_WOBBLE, least * rng.uniform(1.0, 1.5)))
    low = rng.uniform(0.0, 1.0 - swing)
    clean["I"] = [low + swing * (i % 2) for i in range(n)]


def _entropy_rise(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    rise = _ramp(rng, n, dt * (n - 1), MAX_CHANGE[TrajectoryShape.RISING_ENTROPY], (0.25, 0.7), True)
    start = rng.uniform(0.01, 0.98 - rise[-1]) if rise[-1] < 0.97 else 0.01
    clean["S"] = [start + r for r in rise]


def _energy_fall(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    fall = _ramp(rng, n, dt * (n - 1), MAX_CHANGE[TrajectoryShape.FALLING_ENERGY], (0.1, 0.18), True)
    start = rng.uniform(0.35, 0.9)
    clean["E"] = [start - f for f in fall]


def _void_rise(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    rise = _ramp(rng, n, dt * (n - 1), MAX_CHANGE[TrajectoryShape.VOID_RISING], (0.1, 0.25), True)
    start = rng.uniform(0.0, V_MAX - rise[-1])
    clean["V"] = [start + r for r in rise]


def _basin(sign: int, rng: random.Random, clean: Series, n: int, dt: float) -> None:
    change = _ramp(rng, n, dt * (n - 1), 0.8, (0.25, 0.6), False)
    start = rng.uniform(0.05, 0.95 - change[-1]) if sign > 0 else rng.uniform(change[-1] + 0.05, 0.95)
    clean["E"] = [start + sign * c for c in change]


def _spike(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    peak, height, width = rng.randrange(1, n - 1), rng.uniform(0.25, 0.5), max(0.5, n * 0.12)
    low = rng.uniform(0.05, 0.3)
    clean["S"] = [low + height * math.exp(-(((i - peak) / width) ** 2)) for i in range(n)]
    clean["S"][0] = clean["S"][-1] = low


def _dissonance(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    change, start = _ramp(rng, n, dt * (n - 1), 0.5, (0.3, 0.45), False), rng.uniform(0.05, 0.15)
    clean["ethical_drift"] = [start + c for c in change]


def _converge(rng: random.Random, clean: Series, n: int, dt: float) -> None:
    # x_i = x* + a·e^(−ki): the first step's differences are the largest, a(1−e^(−k)) and a(1−e^(−k))².
    step = 1 - math.exp(-rng.uniform(0.1, 0.4))
    for key in DIMENSIONS:
        room = 0.05 if key == "V" else 0.12
        largest = min(room, 0.5 * RATE_THRESHOLD * dt / step, 0.5 * RATE_THRESHOLD * dt * dt / step**2)
        swing = rng.choice((-1, 1)) * rng.uniform(0.3, 1.0) * largest
        low, high = (0.06, V_MAX - 0.06) if key == "V" else (0.15, 0.85)
        target = min(high, max(low, clean[key][0]))
        clean[key] = [target + swing * (1 - step) ** i for i in range(n)]


_DRAW = {
    TrajectoryShape.SETTLED_PRESENCE: _settled,
    TrajectoryShape.RISING_ENTROPY: _entropy_rise,
    TrajectoryShape.FALLING_ENERGY: _energy_fall,
    TrajectoryShape.BASIN_TRANSITION_DOWN: lambda *a: _basin(-1, *a),
    TrajectoryShape.BASIN_TRANSITION_UP: lambda *a: _basin(1, *a),
    TrajectoryShape.ENTROPY_SPIKE_RECOVERY: _spike,
    TrajectoryShape.DRIFT_DISSONANCE: _dissonance,
    TrajectoryShape.VOID_RISING: _void_rise,
    TrajectoryShape.CONVERGENCE: _converge,
}


def trajectory_record(states: list[dict[str, float]], provenance: str) -> dict[str, Any]:
    """Return the record of one window: shape, states, differences, start and end in seconds, provenance."""
    window = compute_trajectory_window(states)
    return {
        "shape": classify_trajectory(window).value,
        **window,
        "t_start": states[0]["t"],
        "t_end": states[-1]["t"],
        "provenance": provenance,
    }


def generate_dataset(
    shape_counts: Mapping[TrajectoryShape, int] | Mapping[str, int],
    n_points: int = 20,
    dt: float = 1.0,
    base_seed: int = 42,
) -> list[dict[str, Any]]:
    """Generate ``shape_counts[shape]`` records of each shape; each has its own seed, counted up from ``base_seed``."""
    wanted = [shape for shape, count in shape_counts.items() for _ in range(count)]
    return [
        trajectory_record(generate_trajectory(shape, n_points, dt, base_seed + i), "synthetic")
        for i, shape in enumerate(wanted)
    ]


def fill_missing_shapes(
    real_records: Iterable[Mapping[str, Any]],
    min_per_shape: int = 50,
    n_points: int = 20,
    dt: float = 1.0,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """Generate the synthetic records (only those) that bring each of the nine shapes to ``min_per_shape``."""
    have = [known_shape(record["shape"]) for record in real_records]
    missing = {shape: max(0, min_per_shape - have.count(shape)) for shape in TrajectoryShape}
    return generate_dataset(missing, n_points, dt, seed)

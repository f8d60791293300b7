"""Trajectory classification: finite differences over EISV states, and the nine shapes of a window.

A state is ``{"t": seconds, "E", "I", "S", "V"}`` with an optional ``"ethical_drift"``:
E energy, I information integrity, S entropy, V void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any

DIMENSIONS = ("E", "I", "S", "V")
FIRST = tuple(f"d{d}" for d in DIMENSIONS)
SECOND = tuple(f"d2{d}" for d in DIMENSIONS)

# Thresholds of the published EISV classifier (contract, section 2).
RANGE_THRESHOLD = 0.2
RATE_THRESHOLD = 0.05
DRIFT_THRESHOLD = 0.3
STILL = 1e-9

Entry = dict[str, float]


class TrajectoryShape(str, Enum):
    """Shape (class label) of a trajectory window."""

    SETTLED_PRESENCE = "settled_presence"
    RISING_ENTROPY = "rising_entropy"
    FALLING_ENERGY = "falling_energy"
    BASIN_TRANSITION_DOWN = "basin_transition_down"
    BASIN_TRANSITION_UP = "basin_transition_up"
    ENTROPY_SPIKE_RECOVERY = "entropy_spike_recovery"
    DRIFT_DISSONANCE = "drift_dissonance"
    VOID_RISING = "void_rising"
    CONVERGENCE = "convergence"


def shape_name(shape: TrajectoryShape | str) -> str:
    """Return the plain name of a shape given as the enum or as text."""
    return shape.value if isinstance(shape, TrajectoryShape) else str(shape)


def known_shape(shape: TrajectoryShape | str) -> TrajectoryShape:
    """Return the enum member of a shape's name.

    Raises:
        ValueError: an unknown shape; the nine are named.
    """
    try:
        return TrajectoryShape(shape)
    except ValueError:
        names = ", ".join(s.value for s in TrajectoryShape)
        raise ValueError(f"Unknown shape {shape!r}: it must be one of {names}") from None


def _differences(entries: Sequence[Mapping[str, Any]], keys: Sequence[str], names: Sequence[str]) -> list[Entry]:
    out = []
    for prev, curr in pairwise(entries):
        dt = curr["t"] - prev["t"]
        if dt == 0:
            continue
        row = {"t": curr["t"]}
        row.update({name: (curr[key] - prev[key]) / dt for key, name in zip(keys, names, strict=True)})
        out.append(row)
    return out


def compute_derivatives(states: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Return first differences per second, each stamped with the later time; pairs with dt = 0 give none."""
    return _differences(states, DIMENSIONS, FIRST)


def compute_second_derivatives(derivatives: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Return the same differences over the first derivatives, per second squared."""
    return _differences(derivatives, FIRST, SECOND)


def compute_trajectory_window(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``{"states", "derivatives", "second_derivatives"}`` of consecutive states."""
    derivatives = compute_derivatives(states)
    return {
        "states": list(states),
        "derivatives": derivatives,
        "second_derivatives": compute_second_derivatives(derivatives),
    }


def mean(entries: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the mean of one field over entries, 0.0 where there are none."""
    return sum(e[key] for e in entries) / len(entries) if entries else 0.0


def _converges(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> bool:
    if not first or not second:
        return False
    quiet = all(abs(e[k]) < RATE_THRESHOLD for e in first for k in FIRST) and all(
        abs(e[k]) < RATE_THRESHOLD for e in second for k in SECOND
    )
    return quiet and any(abs(e[k]) > STILL for e in first for k in FIRST)


def classify_trajectory(window: Mapping[str, Any]) -> TrajectoryShape:
    """Classify a window from :func:`compute_trajectory_window` by shape; the first rule that holds wins."""
    states, first = window["states"], window["derivatives"]
    energy = [s["E"] for s in states]
    entropy = [s["S"] for s in states]
    rate = {key: mean(first, key) for key in FIRST}
    if energy and max(energy) - min(energy) >= RANGE_THRESHOLD:
        if rate["dE"] < 0 and energy[0] > energy[-1]:
            return TrajectoryShape.BASIN_TRANSITION_DOWN
        if rate["dE"] > 0 and energy[-1] > energy[0]:
            return TrajectoryShape.BASIN_TRANSITION_UP
    peaks_within = entropy and 0 < entropy.index(max(entropy)) < len(entropy) - 1
    if peaks_within and max(entropy) - min(entropy) >= RANGE_THRESHOLD:
        return TrajectoryShape.ENTROPY_SPIKE_RECOVERY
    if max((s.get("ethical_drift") or 0.0 for s in states), default=0.0) > DRIFT_THRESHOLD:
        return TrajectoryShape.DRIFT_DISSONANCE
    if rate["dV"] > RATE_THRESHOLD:
        return TrajectoryShape.VOID_RISING
    if rate["dS"] > RATE_THRESHOLD:
        return TrajectoryShape.RISING_ENTROPY
    if rate["dE"] < -RATE_THRESHOLD:
        return TrajectoryShape.FALLING_ENERGY
    if _converges(first, window["second_derivatives"]):
        return TrajectoryShape.CONVERGENCE
    return TrajectoryShape.SETTLED_PRESENCE

"""Confidence intervals of proportions and of paired differences."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(successes: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209–212); total ≥ 1."""
    p, square = successes / total, z * z
    middle = p + square / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + square / (4 * total * total))
    scale = 1 + square / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def paired_difference(both: int, first: int, second: int, neither: int, z: float = Z95) -> tuple[float, float]:
    """Return the confidence interval of p₁ − p₂ from pairs.

    Newcombe 1998, Statistics in Medicine 17, 2635–2650, method 10.

    Samples are taken as independent: ten specifications say more than ten answers to one.

    Args:
        both, first, second, neither: pairs in which both, only the first, only the second, none succeeded.
    """
    total = both + first + second + neither
    p1, p2 = (both + first) / total, (both + second) / total
    (l1, u1), (l2, u2) = wilson(both + first, total, z), wilson(both + second, total, z)
    phi = _correlation(both, first, second, neither)
    low = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    high = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    difference = p1 - p2
    return difference - math.sqrt(max(0.0, low)), difference + math.sqrt(max(0.0, high))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return φ between the two answers of a pair, with Newcombe's continuity correction where it is positive."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - first * second
    if cross > 0:
        cross = max(cross - (both + first + second + neither) / 2, 0)
    return cross / math.sqrt(margins)

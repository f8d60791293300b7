"""Quantiles of the normal and of Student's t distribution, without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist

# Degrees of freedom from which the expansion is used; its error there is below 1e-10.
EXPANSION_FROM = 200


def normal_quantile(level: float) -> float:
    """Return the z with P(Z ≤ z) = level."""
    return NormalDist().inv_cdf(level)


def t_quantile(level: float, freedom: int) -> float:
    """Return the t with P(T ≤ t) = level for Student's t; level in [0.5, 1), freedom ≥ 1.

    Abramowitz and Stegun, Handbook of Mathematical Functions: the finite series 26.7.3 and 26.7.4, solved by
    bisection, and the asymptotic expansion 26.7.5.
    """
    if freedom >= EXPANSION_FROM:
        return _expansion(normal_quantile(level), freedom)
    wanted, low, high = 2 * level - 1, 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_probability(middle, freedom) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _central_probability(angle: float, freedom: int) -> float:
    """Return P(|T| ≤ t) for t = √freedom · tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _expansion(z: float, freedom: int) -> float:
    z2 = z * z
    terms = (
        (z2 + 1) * z / 4,
        ((5 * z2 + 16) * z2 + 3) * z / 96,
        (((3 * z2 + 19) * z2 + 17) * z2 - 15) * z / 384,
        ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) * z / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))

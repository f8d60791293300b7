"""Means of paired differences with their confidence intervals, clustered where rows belong together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from .intervals import Verdict, t_quantile, verdict


@dataclass
class MeanInterval:
    """Mean of ``n`` values in ``clusters`` clusters with its bounds, infinite for fewer than two clusters."""

    n: int
    clusters: int
    mean: float
    lower: float
    upper: float


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    spread: float = 0.0,
) -> MeanInterval:
    """Return the mean of values with one-sided bounds of ``level``, mean ± t · SE.

    SE = (1/n)·√(Σ_c (Σ_{i∈c} (v_i − mean))² · C/(C − 1)) over C clusters, t with C − 1 degrees of freedom; with every
    value its own cluster this is s/√n.

    Args:
        values: at least one.
        clusters: the cluster of each value (its session, shape or template); by default each is its own.
        spread: smallest standard deviation of a cluster that is believed: values that are equal by chance settle
            nothing.
    """
    n = len(values)
    mean = math.fsum(values) / n
    sums: dict[Hashable, float] = defaultdict(float)
    for value, key in zip(values, range(n) if clusters is None else clusters, strict=True):
        sums[key] += value - mean
    count = len(sums)
    if count < 2:
        return MeanInterval(n, count, mean, -math.inf, math.inf)
    error = math.sqrt(math.fsum(s * s for s in sums.values()) * count / (count - 1)) / n
    half = t_quantile(level, count - 1) * max(error, spread / math.sqrt(count))
    return MeanInterval(n, count, mean, mean - half, mean + half)


def mean_verdict(values: Sequence[float], threshold: float, clusters: Sequence[Hashable] | None = None) -> Verdict:
    """Return the verdict on the mean of values in [0, 1], as ``statistics.verdict`` does on a rate.

    Values that are all equal are judged as a rate, whose variance is the largest that a mean can have: their own, 0,
    would settle anything with two cases.
    """
    if not values:
        return Verdict("INCONCLUSIVE", 0.0, 1.0, None)
    if min(values) == max(values):
        return verdict(math.fsum(values), len(values), threshold)
    found = clustered_mean(values, clusters)
    lower, upper = max(0.0, found.lower), min(1.0, found.upper)
    if lower >= threshold or upper < threshold:
        return Verdict("PASS" if lower >= threshold else "FAIL", lower, upper, 0)
    distance, half = abs(found.mean - threshold), found.upper - found.mean
    # The width shrinks with √n.
    needed = math.ceil(found.n * (half / distance) ** 2) - found.n if distance and half < math.inf else None
    return Verdict("INCONCLUSIVE", lower, upper, None if needed is None else max(1, needed))

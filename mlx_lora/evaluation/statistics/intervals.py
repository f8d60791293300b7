"""Quantiles, confidence intervals of rates and of paired differences, verdicts, and tests of pairs, without SciPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Z95 = 1.959963984540054
# One-sided: 5 % beyond the bound. 80 % power: see ``detectable_difference``.
Z95_ONE_SIDED, Z80_POWER = 1.6448536269514722, 0.8416212335729143
ALPHA = 0.05
# Degrees of freedom from which the expansion is used; its error there is below 1e-10.
EXPANSION_FROM = 200

Decision = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass
class Verdict:
    """Comparison of a rate with its threshold that holds beyond the cases at hand.

    Attributes:
        lower, upper: one-sided 95 % bounds of the true rate.
        cases_needed: cases to add until it is settled if the rate stays as it is; 0 when settled, ``None`` where no
            number would (the rate is the threshold).
    """

    verdict: Decision
    lower: float
    upper: float
    cases_needed: int | None


def one_sided_bounds(successes: float, total: int) -> tuple[float, float]:
    """Return the one-sided 95 % lower and upper bound of a proportion.

    Wilson's; without a failure, or without a success, Clopper and Pearson's exact ones, since Wilson's cover too little
    there (25 of 25 would show 0.90, which a true rate of 0.90 reaches 7 % of the time). No case gives (0, 1).
    """
    if not total:
        return 0.0, 1.0
    lower, upper = wilson(successes, total, Z95_ONE_SIDED)
    exact = ALPHA ** (1 / total)
    return (exact if successes == total else lower), (1 - exact if successes == 0 else upper)


def verdict(successes: float, total: int, threshold: float) -> Verdict:
    """Return PASS if the lower bound reaches the threshold, FAIL if the upper bound is below it, else INCONCLUSIVE.

    No sample shows a true rate of 1: that threshold is a rule about these very cases, all of which must pass.
    """
    lower, upper = one_sided_bounds(successes, total)
    if threshold >= 1 and total:
        return Verdict("PASS" if successes == total else "FAIL", lower, upper, 0)
    if lower >= threshold:
        return Verdict("PASS", lower, upper, 0)
    if upper < threshold:
        return Verdict("FAIL", lower, upper, 0)
    needed = _cases_to_settle(successes, total, threshold)
    return Verdict("INCONCLUSIVE", lower, upper, None if needed is None else max(1, needed - total))


def _cases_to_settle(successes: float, total: int, threshold: float) -> int | None:
    """Return the number of cases, at the observed rate, whose bound is at the threshold."""
    if not 0 < threshold < 1:
        return None
    rate = successes / total if total else 1.0
    if rate in (0.0, 1.0):
        return math.ceil(math.log(ALPHA) / math.log(threshold if rate else 1 - threshold))
    if rate == threshold:
        return None
    # Wilson's bound is at t where (p − t)² = z² · t(1 − t) / n.
    return math.ceil(Z95_ONE_SIDED**2 * threshold * (1 - threshold) / (rate - threshold) ** 2)


def f1_interval(true_positives: int, false_positives: int, false_negatives: int, z: float = Z95) -> tuple[float, float]:
    """Return the confidence interval of F1; (0, 1) without a positive.

    Wilson's indirect method (Lam et al. 2023, arXiv:2309.14621): F1 = 2J / (1 + J), where J = TP / (TP + FP + FN) is a
    proportion.
    """
    total = true_positives + false_positives + false_negatives
    low, high = wilson(true_positives, total, z) if total else (0.0, 1.0)
    return _f1_of(low), _f1_of(high)


def f1_verdict(
    true_positives: int, false_positives: int, false_negatives: int, threshold: float, cases: int | None = None
) -> Verdict:
    """Return the verdict on F1; see ``f1_interval`` and ``verdict``.

    Args:
        cases: all cases, true negatives included, in which ``cases_needed`` is counted.
    """
    total = true_positives + false_positives + false_negatives
    found = verdict(true_positives, total, threshold / (2 - threshold))
    if found.cases_needed and cases and total:
        found.cases_needed = math.ceil(found.cases_needed * cases / total)
    found.lower, found.upper = _f1_of(found.lower), _f1_of(found.upper)
    return found


def _f1_of(share: float) -> float:
    return 2 * share / (1 + share)


def wilson(successes: float, total: int, z: float = Z95) -> tuple[float, float]:
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


def margin_of(total: int) -> float:
    """Return the margin of non-inferiority for a number of pairs: 5 points below 500, 3 points from there."""
    return 0.05 if total < 500 else 0.03


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact one-sided p-value of McNemar's test for "loses more cases than it wins".

    Args:
        wins, losses: pairs in which only the candidate passed, and only the reference.
    """
    total = wins + losses
    return sum(math.comb(total, k) for k in range(losses, total + 1)) / 2**total


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Holm 1979, Scand. J. Stat. 6, 65–70), in the same order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def detectable_difference(discordant: int, total: int) -> float | None:
    """Return the smallest true difference that a one-sided 5 % test of pairs finds with 80 % power.

    The solution of δ = (1.645·√d + 0.842·√(d − δ²)) / √n, d the discordant share. No discordant pair counts as one.

    Returns:
        ``None`` for fewer than two pairs, or where it would exceed 1: no difference can be found.
    """
    if total < 2:
        return None
    a, b, share = Z95_ONE_SIDED, Z80_POWER, max(1, discordant) / total
    root = b * math.sqrt(total + b * b - a * a) if total + b * b > a * a else 0.0
    found = math.sqrt(share) * (a * math.sqrt(total) + root) / (total + b * b)
    return found if found <= 1 else None


def expected_retries(successes: int, total: int) -> float | None:
    """Return E[retries] = (1 − p) / p, the mean of attempts before the first success; ``None`` without a success."""
    return (total - successes) / successes if successes else None


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

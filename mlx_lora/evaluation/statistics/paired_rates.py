"""Pass rates of two models on the same cases: their difference, its bounds, and the verdict on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .intervals import Z95_ONE_SIDED, detectable_difference, margin_of, paired_difference

Outcome = Literal["better", "not_worse", "worse", "inconclusive"]
# (case id, the candidate passed, the reference passed)
Pair = tuple[str, bool, bool]


@dataclass
class PairedRates:
    """Difference of two pass rates, candidate − reference, on the same cases; ``None`` where no case is left.

    Attributes:
        lower, upper: one-sided 95 % bounds (Newcombe).
        detectable: smallest true difference that this many pairs find with 80 % power.
        cases_needed: cases to add to settle it if the rates stay as they are; ``None`` where no number would.
    """

    n: int
    passed_candidate: int
    passed_reference: int
    wins: int
    losses: int
    difference: float | None
    lower: float | None
    upper: float | None
    detectable: float | None
    margin: float
    verdict: Outcome
    cases_needed: int | None


def judge(lower: float, upper: float, margin: float) -> Outcome:
    """Return the verdict of one part from its bounds; see ``comparison``."""
    if lower > 0:
        return "better"
    if lower > -margin:
        return "not_worse"
    return "worse" if upper < 0 else "inconclusive"


def paired_rates(pairs: Sequence[Pair], margin: float | None = None) -> PairedRates:
    """Return the difference of the pass rates with its verdict.

    Args:
        margin: Δ; by default by the number of pairs.
    """
    table = Counter((a, b) for _, a, b in pairs)
    n, wins, losses, both = len(pairs), table[True, False], table[False, True], table[True, True]
    margin = margin_of(n) if margin is None else margin
    if not n:
        return PairedRates(0, 0, 0, 0, 0, None, None, None, None, margin, "inconclusive", None)
    difference = (wins - losses) / n
    lower, upper = paired_difference(both, wins, losses, table[False, False], Z95_ONE_SIDED)
    outcome = judge(lower, upper, margin)
    return PairedRates(
        n,
        both + wins,
        both + losses,
        wins,
        losses,
        difference,
        lower,
        upper,
        detectable_difference(wins + losses, n),
        margin,
        outcome,
        _cases_needed(n, difference, lower, upper, margin) if outcome == "inconclusive" else 0,
    )


def _cases_needed(n: int, difference: float, lower: float, upper: float, margin: float) -> int | None:
    # An interval's width shrinks with √n: until its lower end is above −Δ, or its upper end below 0.
    ratios = []
    if difference > -margin:
        ratios.append((difference - lower) / (difference + margin))
    if difference < 0:
        ratios.append((upper - difference) / -difference)
    return max(1, math.ceil(n * min(ratios) ** 2) - n) if ratios else None


def anchor_rates(pairs: Sequence[Pair], margin: float) -> PairedRates:
    """Return the rates against an anchor; one too small for the margin is judged case by case: none may be lost.

    Below 52 cases identical answers, all correct, would not settle 5 points.
    """
    found = paired_rates(pairs, margin)
    too_small = found.n > 0 and paired_difference(found.n, 0, 0, 0, Z95_ONE_SIDED)[0] <= -margin
    if too_small and found.verdict == "inconclusive" and not found.losses:
        found.verdict, found.cases_needed = "not_worse", 0
    return found

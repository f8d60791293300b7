"""Non-inferiority of a candidate on few rows or cases: tonight's, and those of earlier nights pooled with them.

A held-out part of 5 to 20 rows, or a suite of 20 cases, seldom settles a margin in one night. Candidates of several
nights that were judged against the same live adapter are evidence together: their pairs are pooled, and the bound of
the pool holds at all nights at once (an anytime-valid one), so that looking each night promotes an inferior candidate
no more often than looking once. Pairs of all those nights belong to the pool, also of candidates that were worse:
without them it would be better than the candidates are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from .comparison import LOSS_MARGIN
from .intervals import ALPHA, Z95_ONE_SIDED, paired_difference
from .paired_means import MeanInterval, clustered_mean
from .paired_rates import Outcome, Pair, PairedRates, judge, paired_rates

# Pairs around which the anytime-valid bound is tightest; it is valid for any number.
TIGHTEST = 32
# Clusters below which Student's t asks for effects that no night has: the rows are taken as their own then, and the
# verdict is on these very sessions or shapes.
FEWEST_CLUSTERS = 6
# Rows below which nothing is settled.
FEWEST_ROWS = 3
# Gains beyond this many times the median size of a difference count as that much.
WINDFALL = 3.0
# Nights blocked by chance alone where many earlier nights are looked at: at most every second.
BLOCKED_BY_CHANCE = 0.5


@dataclass
class LossDifference:
    """Difference of held-out losses on one row, reference − candidate (nats a token).

    Attributes:
        row: the same for the same row on every night.
        cluster: session, shape or template, or None.
    """

    row: str
    cluster: str | None
    difference: float


@dataclass
class LossInterval:
    """Mean difference with its bounds and verdict."""

    n: int
    mean: float
    lower: float
    upper: float
    verdict: Outcome


def anytime_level(pairs: int) -> float:
    """Return the one-sided level of a bound that holds at every number of pairs together with 95 %.

    The normal mixture of Howard, Ramdas, McAuliffe and Sekhon 2021, Ann. Stat. 49, 1055–1080, Proposition 6:
    z = √(2·(1 + ρ/n)·ln(1 + √(1 + n/ρ)/(2α))), some 2.8 to 3.0 where one look has 1.645.
    """
    ratio = max(1, pairs) / TIGHTEST
    z = math.sqrt(2 * (1 + 1 / ratio) * math.log(1 + math.sqrt(1 + ratio) / (2 * ALPHA)))
    return NormalDist().cdf(z)


def own_level(earlier: int) -> float:
    """Return the one-sided level of a night's own bound after nights that settled nothing: 95 %, then higher.

    Each night's candidate has its own chance to look better than it is; over all nights they add up to 8 %.
    """
    return 1 - ALPHA / (earlier + 1) ** 2


def alarm_level(parts: int) -> float:
    """Return the one-sided level at which one of several parts is called worse: 95 %, higher for more than ten."""
    return 1 - min(ALPHA, BLOCKED_BY_CHANCE / max(1, parts))


def loss_interval(
    differences: Sequence[LossDifference], alarm: float = 1 - ALPHA, level: float = 1 - ALPHA
) -> LossInterval:
    """Return the mean difference of rows with its verdict; too few rows are inconclusive.

    Args:
        alarm: one-sided level of the upper bound, below 0 for worse.
        level: one-sided level of the lower bound, above −0.02 nats for not worse.
    """
    values = _without_windfalls([row.difference for row in differences])
    clusters = _clusters(differences)
    if len(set(clusters)) < FEWEST_ROWS:
        mean = math.fsum(values) / len(values) if values else 0.0
        return LossInterval(len(values), mean, -math.inf, math.inf, "inconclusive")
    below: MeanInterval = clustered_mean(values, clusters, level, LOSS_MARGIN)
    above = clustered_mean(values, clusters, alarm, LOSS_MARGIN)
    outcome = judge(below.lower, above.upper, LOSS_MARGIN)
    return LossInterval(len(values), below.mean, below.lower, above.upper, outcome)


def _without_windfalls(values: Sequence[float]) -> list[float]:
    """Return the differences, gains beyond three times the median size cut down to it.

    One row of a label that the reference had found improbable gains a nat and more, and would widen the interval until
    nothing is settled. Cutting gains makes the mean smaller, never larger; losses stay as they are.
    """
    if not values:
        return []
    most = max(LOSS_MARGIN, WINDFALL * sorted(map(abs, values))[len(values) // 2])
    return [min(value, most) for value in values]


def _clusters(differences: Sequence[LossDifference]) -> list[Hashable]:
    """Return what each row belongs to; a row that several nights have judged is one cluster."""
    named = {row.cluster for row in differences} - {None}
    if len(named) < FEWEST_CLUSTERS:
        return [row.row for row in differences]
    return [row.row if row.cluster is None else (row.cluster,) for row in differences]


def settled_losses(
    tonight: Sequence[LossDifference], earlier: Sequence[Sequence[LossDifference]] = (), alarm: float = 1 - ALPHA
) -> LossInterval:
    """Return the verdict on tonight's rows, by themselves or else pooled with those of earlier nights.

    A pool makes nothing worse or better. Tonight's own mean must be within the margin as well, whatever earlier
    candidates have shown.

    Args:
        earlier: rows of each earlier night that settled nothing against the same live adapter.
        alarm: see :func:`loss_interval`.
    """
    own = loss_interval(tonight, alarm, own_level(len(earlier)))
    rows = [*tonight, *(row for night in earlier for row in night)]
    if own.verdict != "inconclusive" or len(rows) == len(tonight) or own.mean <= -LOSS_MARGIN:
        return own
    pooled = loss_interval(rows, level=anytime_level(len(rows)))
    if not tonight or pooled.lower <= -LOSS_MARGIN:
        return own
    pooled.verdict = "not_worse"
    return pooled


@dataclass
class RateInterval:
    """Difference of pass rates on ``n`` pairs with its lower bound and verdict."""

    n: int
    difference: float
    lower: float
    verdict: Outcome


def settled_rates(tonight: PairedRates, pairs: Sequence[Pair], earlier: Sequence[Sequence[Pair]]) -> RateInterval:
    """Return the verdict on tonight's pairs, by themselves or else pooled with those of earlier nights.

    As :func:`settled_losses`. Fewer pairs than identical answers need for the margin (52 for 5 points) settle nothing
    but that the candidate is worse: of so few, two wins by chance would. The cases of a suite are the same each night;
    what varies is the candidate, and a case that every candidate loses is lost in each night's pairs.

    Args:
        tonight: rates of ``pairs``.
    """
    margin = tonight.margin
    alone = _interval(pairs, margin, own_level(len(earlier)))
    if tonight.verdict == "worse" or alone.verdict != "inconclusive":
        alone.verdict = "worse" if tonight.verdict == "worse" else alone.verdict
        return alone
    together = [*pairs, *(pair for night in earlier for pair in night)]
    if not pairs or not earlier or alone.difference <= -margin:
        return alone
    pooled = _interval(together, margin, anytime_level(len(together)))
    if pooled.verdict == "inconclusive":
        return alone
    pooled.verdict = "not_worse"
    return pooled


def _interval(pairs: Sequence[Pair], margin: float, level: float) -> RateInterval:
    rates = paired_rates(pairs, margin)
    if rates.difference is None:
        return RateInterval(0, 0.0, -1.0, "inconclusive")
    both = rates.passed_candidate - rates.wins
    neither = rates.n - both - rates.wins - rates.losses
    lower, _ = paired_difference(both, rates.wins, rates.losses, neither, NormalDist().inv_cdf(level))
    enough = paired_difference(rates.n, 0, 0, 0, Z95_ONE_SIDED)[0] > -margin
    outcome: Outcome = "inconclusive"
    if enough and lower > -margin:
        outcome = "better" if lower > 0 else "not_worse"
    return RateInterval(rates.n, rates.difference, lower, outcome)

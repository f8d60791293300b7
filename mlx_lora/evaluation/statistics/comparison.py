"""Paired comparison of a candidate with a reference on the same cases, and its verdict on the candidate.

Each part of a comparison has one-sided 95 % bounds of how much better the candidate is, and a margin Δ:

=============  ==================================================================================
better         the lower bound is above 0
not_worse      the lower bound is above −Δ (non-inferior)
worse          the upper bound is below 0, and the candidate is not shown to be within the margin
inconclusive   none of these: the cases do not settle it
=============  ==================================================================================

The parts are the pooled pass rates of the suites (Newcombe's paired interval; Δ = 5 points below 500 pairs, 3 from
there), the held-out loss of each part of the data (clustered t interval; Δ = 0.02 nats a token), and each anchor. The
comparison is

1. worse if a part is worse, if a suite alone is significantly worse (exact McNemar, Holm over suites, 5 %), or if the
   collapse stop ended it;
2. else inconclusive if a part is inconclusive (also for lack of cases);
3. else better if the pass rates or the held-out loss of a part are better;
4. else not_worse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UserError, shortened
from .intervals import ALPHA, holm, mcnemar
from .paired_means import clustered_mean
from .paired_rates import Outcome, Pair, PairedRates, anchor_rates, judge, paired_rates

EXIT_STATUS: dict[Outcome, int] = {"better": 0, "not_worse": 0, "worse": 1, "inconclusive": 1}

# Nats a token by which a held-out loss may rise unnoticed.
LOSS_MARGIN = 0.02


@dataclass
class SuiteComparison(PairedRates):
    """One suite's pairs; ``p_value`` of McNemar's one-sided test, ``p_adjusted`` by Holm over all suites."""

    suite: str
    p_value: float
    p_adjusted: float
    significantly_worse: bool


@dataclass
class AnchorComparison(PairedRates):
    """Candidate's pass rate against an anchor's: the base on general canaries, or the best generation so far."""

    anchor: str


@dataclass
class HeldoutRows:
    """Mean token loss (nats) of each row of one part of the data, for the candidate and for the reference.

    Attributes:
        clusters: what rows belong to: a session, shape or template; by default each row is its own.
    """

    candidate: Sequence[float]
    reference: Sequence[float]
    clusters: Sequence[Hashable] | None = None


@dataclass
class HeldoutLoss:
    """Difference of held-out losses, reference − candidate (nats a token), with one-sided 95 % bounds.

    Attributes:
        learned: the lower bound is above 0.
        not_forgotten: the lower bound is above the margin, −0.02.
    """

    part: str
    n: int
    clusters: int
    loss_candidate: float
    loss_reference: float
    difference: float
    lower: float | None
    upper: float | None
    margin: float
    learned: bool
    not_forgotten: bool
    verdict: Outcome


@dataclass
class Comparison:
    """Result of ``compare``; see the module for the verdict. ``asdict`` is what `compare --json` prints.

    Attributes:
        reasons: a sentence for each part that decides the verdict.
        heldout_loss: ``{"verdict", "parts"}``, empty without held-out rows.
        unstable: ``{"suite", "id"}`` of each case left out since the reference's own runs disagree on it.
        stopped_after: answers after which the collapse stop ended the comparison.
    """

    verdict: Outcome
    reasons: list[str]
    pooled: PairedRates
    suites: list[SuiteComparison]
    heldout_loss: dict[str, Any]
    anchors: list[AnchorComparison]
    unstable: list[dict[str, str]]
    stopped_after: int | None

    @property
    def exit_status(self) -> int:
        """0 for better or not worse, 1 for worse or inconclusive."""
        return EXIT_STATUS[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `compare --json`."""
        return asdict(self)


def compare(
    suites: Mapping[str, Sequence[Pair]],
    *,
    pool: Collection[str] | None = None,
    reruns: Sequence[Mapping[str, Mapping[str, bool]]] = (),
    heldout: Mapping[str, HeldoutRows] | None = None,
    anchors: Mapping[str, Sequence[Pair]] | None = None,
    stopped_after: int | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare a candidate with a reference.

    Args:
        suites: pairs of each suite; a case that was not answered has not passed.
        pool: names of the suites whose cases are pooled, such as the ship suites; by default all.
        reruns: further runs of the reference (other seed or batching): suite → case id → passed. Cases on which the
            reference's runs disagree are left out. With one rerun they are found by comparing it with the reference's
            run, which favours the reference: it keeps the cases on which that had luck twice. With two or more they are
            found among the reruns alone, and the comparison stays fair; give two where answers are sampled.
        heldout: held-out losses by part of the data, such as new and each earlier night.
        anchors: pairs of the candidate and each anchor, judged with the same margin as the pooled pairs.
        stopped_after: see ``collapse.CollapseStop``.
        margin: Δ of pass rates; by default by the number of pairs.

    Raises:
        UserError: nothing to compare, a case twice, a rerun without a case, or held-out rows that do not match.
    """
    if not suites and not heldout:
        raise UserError("there is nothing to compare; give suites with cases, or held-out rows")
    for name, pairs in {**suites, **(anchors or {})}.items():
        _check_ids(name, pairs)
    flipped = {name: _unstable(name, pairs, reruns) for name, pairs in suites.items()}
    stable = {name: [p for p in pairs if p[0] not in flipped[name]] for name, pairs in suites.items()}
    pooled = paired_rates([p for name, pairs in stable.items() if pool is None or name in pool for p in pairs], margin)
    compared = _compare_suites(stable, margin)
    losses = [_heldout(part, rows) for part, rows in (heldout or {}).items()]
    anchored = [
        AnchorComparison(**asdict(anchor_rates(pairs, pooled.margin)), anchor=name)
        for name, pairs in (anchors or {}).items()
    ]
    parts = _parts(pooled if suites else None, losses, anchored)
    found, reasons = _combine(parts, compared, stopped_after)
    return Comparison(
        found,
        reasons,
        pooled,
        compared,
        {"verdict": _worst([part.verdict for part in losses]), "parts": list(map(asdict, losses))} if losses else {},
        anchored,
        [{"suite": name, "id": case} for name, cases in flipped.items() for case in cases],
        stopped_after,
    )


def _check_ids(name: str, pairs: Sequence[Pair]) -> None:
    twice = [case for case, count in Counter(pair[0] for pair in pairs).items() if count > 1]
    if twice:
        raise UserError(f"{name}: the case {shortened(twice[0])} is there twice; give every case its own id")


def _unstable(name: str, pairs: Sequence[Pair], reruns: Sequence[Mapping[str, Mapping[str, bool]]]) -> dict[str, None]:
    """Return the ids of cases on which the reference's runs disagree, in order."""
    found: dict[str, None] = {}
    for case, _, passed in pairs:
        try:
            again = [run[name][case] for run in reruns]
        except KeyError:
            said = f"{name}: a second run of the reference lacks the case {shortened(case)}"
            raise UserError(f"{said}; run the reference again on the same cases") from None
        if len({*again, passed} if len(again) == 1 else set(again)) > 1:
            found[case] = None
    return found


def _compare_suites(stable: Mapping[str, Sequence[Pair]], margin: float | None) -> list[SuiteComparison]:
    rates = {name: paired_rates(pairs, margin) for name, pairs in stable.items()}
    p_values = [mcnemar(r.wins, r.losses) for r in rates.values()]
    return [
        SuiteComparison(
            **asdict(found), suite=name, p_value=p, p_adjusted=adjusted, significantly_worse=adjusted <= ALPHA
        )
        for (name, found), p, adjusted in zip(rates.items(), p_values, holm(p_values), strict=True)
    ]


def _heldout(part: str, rows: HeldoutRows) -> HeldoutLoss:
    sizes = {len(rows.candidate), len(rows.reference), len(rows.clusters or rows.candidate)}
    if len(sizes) > 1 or 0 in sizes:
        raise UserError(f"{part}: both models need the same held-out rows, at least one; measure both again")
    if not all(map(math.isfinite, [*rows.candidate, *rows.reference])):
        raise UserError(f"{part}: a held-out loss is not finite; the model is broken or overflows")
    n = len(rows.candidate)
    found = clustered_mean([b - a for a, b in zip(rows.candidate, rows.reference, strict=True)], rows.clusters)
    known = math.isfinite(found.lower)
    return HeldoutLoss(
        part,
        n,
        found.clusters,
        math.fsum(rows.candidate) / n,
        math.fsum(rows.reference) / n,
        found.mean,
        found.lower if known else None,
        found.upper if known else None,
        LOSS_MARGIN,
        found.lower > 0,
        found.lower > -LOSS_MARGIN,
        judge(found.lower, found.upper, LOSS_MARGIN),
    )


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return worse or inconclusive if one is, else better if one is, else not_worse."""
    found = set(outcomes)
    order: tuple[Outcome, ...] = ("worse", "inconclusive", "better")
    return next((outcome for outcome in order if outcome in found), "not_worse")


def _parts(
    pooled: PairedRates | None, losses: Sequence[HeldoutLoss], anchored: Sequence[AnchorComparison]
) -> list[tuple[Outcome, str]]:
    """Return the verdict of each part with the sentence that says why; an anchor makes nothing better."""
    parts = [] if pooled is None else [(pooled.verdict, f"pass rates: {said_rates(pooled)}")]
    for loss in losses:
        bounds = "" if loss.lower is None else f" (from {loss.lower:+.4f} to {loss.upper:+.4f})"
        said = f"{loss.difference:+.4f} nats a token{bounds} on {loss.n} rows in {loss.clusters} clusters"
        parts.append((loss.verdict, f"held-out loss, {loss.part}: {loss.verdict}, {said}"))
    for anchor in anchored:
        outcome: Outcome = "not_worse" if anchor.verdict == "better" else anchor.verdict
        parts.append((outcome, f"anchor {anchor.anchor}: {said_rates(anchor)}"))
    return parts


def said_rates(rates: PairedRates) -> str:
    """Return a comparison of rates in words."""
    if rates.difference is None or rates.lower is None or rates.upper is None:
        return f"{rates.verdict}, no case is left"
    points = [f"{100 * value:+.1f}" for value in (rates.difference, rates.lower, rates.upper)]
    said = f"{rates.verdict}, {points[0]} points (from {points[1]} to {points[2]}) on {rates.n} cases"
    return f"{said}; {rates.cases_needed} more cases would settle it" if rates.cases_needed else said


def _combine(
    parts: Sequence[tuple[Outcome, str]], suites: Sequence[SuiteComparison], stopped_after: int | None
) -> tuple[Outcome, list[str]]:
    """Return the verdict and the sentences of what decides it."""
    found = list(parts)
    if stopped_after is not None:
        found.append(("worse", f"the collapse stop ended the comparison after {stopped_after} answers"))
    for suite in suites:
        if suite.significantly_worse:
            said = f"{suite.losses} cases lost and {suite.wins} won, adjusted p = {suite.p_adjusted:.3g}"
            found.append(("worse", f"{suite.suite}: significantly worse, {said}"))
    outcome = _worst(outcome for outcome, _ in found)
    return outcome, [said for part, said in found if part == outcome]

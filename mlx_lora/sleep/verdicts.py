"""Verdicts on a candidate, one a check: held-out losses, collapse, row checks, suites and anchors.

Losses, suites and anchors must be settled: the candidate is shown to be within the margin, tonight or by the pairs of
several nights. Collapse and row checks are alarms on the same rows: they block what is significantly worse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..evaluation.collapse import CollapseStop
from ..evaluation.comparison import Comparison, said_rates
from ..evaluation.non_inferiority import (
    LossDifference,
    LossInterval,
    alarm_level,
    loss_interval,
    own_level,
    settled_losses,
    settled_rates,
)
from ..evaluation.paired_rates import Outcome, Pair, PairedRates
from ..evaluation.statistics import ALPHA, holm, mcnemar
from .heldout_rows import ScoredAnswer, mean_score

# Held-out rows below which a night is judged together with the others.
SMALL = 8
# Net answers lost to collapse, and their share, that block even where too few were asked for significance.
LOST, LOST_SHARE = 3, 0.25
# Distinct answers beside the reference's and the stored ones below which answers have become one.
FEWER_ANSWERS = 0.5

Kind = Literal["suite", "loss", "anchor", "collapse", "check"]


@dataclass
class SleepCheck:
    """Verdict of one check, with the values of candidate and reference where it has some."""

    name: str
    kind: Kind
    verdict: Outcome
    said: str
    candidate: float | None = None
    reference: float | None = None


@dataclass
class NightLosses:
    """Losses of a night's held-out rows.

    Attributes:
        candidate, reference: mean over the supervised tokens.
    """

    night: str
    rows: list[LossDifference]
    candidate: float
    reference: float


@dataclass
class Evidence:
    """What an earlier judgement against the same live adapter leaves for later ones.

    Attributes:
        new: differences of the rows that were new on its night; ``earlier``: of the others.
        suites: pairs of the suites that are pooled; ``anchors``: of each anchor.
    """

    new: list[LossDifference] = field(default_factory=list)
    earlier: list[LossDifference] = field(default_factory=list)
    suites: list[Pair] = field(default_factory=list)
    anchors: dict[str, list[Pair]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; rows as ``[row, cluster, difference]``."""
        content = asdict(self)
        for key in ("new", "earlier"):
            content[key] = [[row["row"], row["cluster"], round(row["difference"], 6)] for row in content[key]]
        return content


def read_evidence(content: Mapping[str, Any]) -> Evidence | None:
    """Return the evidence of ``to_dict``; None where it is of another version or broken."""
    try:
        new, earlier = ([LossDifference(str(r), c, float(d)) for r, c, d in content[key]] for key in ("new", "earlier"))
        anchors = {name: [_pair(pair) for pair in pairs] for name, pairs in content["anchors"].items()}
        return Evidence(new, earlier, [_pair(pair) for pair in content["suites"]], anchors)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _pair(content: Sequence[Any]) -> Pair:
    case, candidate, reference = content
    return str(case), bool(candidate), bool(reference)


def judge_losses(nights: Sequence[NightLosses], tonight: str, evidence: Sequence[Evidence]) -> list[SleepCheck]:
    """Return the verdict on each night's held-out loss.

    Tonight's rows and those of earlier nights are two questions: learned, and not forgotten. A night of fewer than 8
    rows, tonight too, is judged together with all earlier ones; so is one that is inconclusive by itself. A night that
    is significantly worse by itself blocks, whatever the others show.
    """
    alone = {n.night: n for n in nights if n.night == tonight and len(n.rows) >= SMALL}
    together = {n.night: n for n in nights if n.night not in alone}
    level = alarm_level(len(nights))
    found = _settle(alone, [one.new for one in evidence], level)
    # Rows that were new on a night of few rows are of the same question as tonight's few.
    small = tonight in together
    found |= _settle(together, [one.earlier + (one.new if small else []) for one in evidence], level)
    return [found[night.night] for night in nights]


def _settle(
    nights: Mapping[str, NightLosses], evidence: Sequence[Sequence[LossDifference]], alarm: float
) -> dict[str, SleepCheck]:
    evidence = [rows for rows in evidence if rows]
    rows = [row for night in nights.values() for row in night.rows]
    joint = settled_losses(rows, evidence)
    found = {}
    for name, night in nights.items():
        own = loss_interval(night.rows, alarm, own_level(len(evidence)))
        decided = own.verdict == "worse" or (len(night.rows) >= SMALL and own.verdict != "inconclusive")
        interval = own if decided else joint
        said = f"held-out loss of night {name}: {_said_loss(night, own, interval, len(nights), len(evidence))}"
        found[name] = SleepCheck(name, "loss", interval.verdict, said, night.candidate, night.reference)
    return found


def _said_loss(night: NightLosses, own: LossInterval, interval: LossInterval, nights: int, evidence: int) -> str:
    values = f"{night.candidate:.4f} nats a token, and {night.reference:.4f} before, on {_count(own.n, 'row')}"
    if interval is own:
        return f"{own.verdict}, {values}"
    pooled = [f"{nights} nights"] if nights > 1 else []
    pooled += [_count(evidence, "earlier judgement")] if evidence else []
    if interval.n == own.n or not pooled:
        more = "; more rows would settle it" if own.verdict == "inconclusive" else ""
        return f"{interval.verdict}, {values}{more}"
    said = f"{interval.n} rows of {' and '.join(pooled)} together: {interval.mean:+.4f} (from {interval.lower:+.4f})"
    return f"{interval.verdict}, {values}; {said}"


def broken_losses(night: str, rows: int, candidate: float, reference: float) -> SleepCheck:
    """Return the verdict where a loss is not finite: worse, or better where it is the reference's."""
    worse = not math.isfinite(candidate)
    whose = "candidate" if worse else "reference"
    said = (
        f"held-out loss of night {night}: the {whose}'s is not finite on {_count(rows, 'row')}; its adapter is broken"
    )
    values = [value if math.isfinite(value) else None for value in (candidate, reference)]
    return SleepCheck(night, "loss", "worse" if worse else "better", said, *values)


def judge_collapse(
    candidate: Sequence[ScoredAnswer], reference: Sequence[ScoredAnswer], stored: Sequence[str], stop: CollapseStop
) -> SleepCheck:
    """Return the verdict on the form of the answers to held-out prompts, all nights together.

    Worse: the collapse stop ended the asking; significantly more answers have collapsed than the reference's (McNemar),
    or net at least 3 of them and a quarter of all; or the answers have become few: at most half as many different ones
    as the reference gives, and as are stored.
    """
    n = len(candidate)
    shares = [sum(answer.collapsed for answer in answers) / max(1, n) for answers in (candidate, reference)]
    pairs = list(zip(candidate, reference, strict=True))
    lost = sum(a.collapsed and not b.collapsed for a, b in pairs)
    won = sum(b.collapsed and not a.collapsed for a, b in pairs)
    distinct = [
        len({text.strip() for text in texts})
        for texts in ([a.text for a in candidate], [a.text for a in reference], stored)
    ]
    said = f"{sum(a.collapsed for a in candidate)} of {_count(n, 'answer')} to held-out prompts collapsed, and "
    said += f"{sum(a.collapsed for a in reference)} before"
    verdict: Outcome = "not_worse"
    if stop.stopped_after is not None:
        verdict = "worse"
        said = f"the collapse stop ended the asking after {stop.stopped_after} answers ({said})"
    elif (lost and mcnemar(won, lost) <= ALPHA) or (lost - won >= LOST and lost - won >= LOST_SHARE * n):
        verdict = "worse"
    elif distinct[0] <= FEWER_ANSWERS * min(distinct[1:]) and min(distinct[1:]) >= SMALL:
        verdict = "worse"
        said = f"only {distinct[0]} different answers to {n} held-out prompts, and {distinct[1]} before"
    return SleepCheck("answers", "collapse", verdict, said, *shares)


def judge_checks(
    nights: Mapping[str, tuple[Sequence[ScoredAnswer | None], Sequence[ScoredAnswer | None]]],
) -> list[SleepCheck]:
    """Return the verdict on the row checks of each night, candidate and reference; nights without a check are absent.

    Worse: significantly more rows are lost than won, on a night (McNemar, Holm over nights) or on all together.
    """
    tables, means = {}, {}
    for name, (candidate, reference) in nights.items():
        pairs = [
            (a.score.passed, b.score.passed)
            for a, b in zip(candidate, reference, strict=False)
            if a is not None and b is not None and a.score is not None and b.score is not None
        ]
        if pairs:
            tables[name] = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))
            means[name] = (mean_score(candidate), mean_score(reference))
    adjusted = holm([mcnemar(won, lost) for won, lost, _ in tables.values()])
    total_won, total_lost = sum(t[0] for t in tables.values()), sum(t[1] for t in tables.values())
    everywhere = total_lost > 0 and mcnemar(total_won, total_lost) <= ALPHA
    found = []
    for (name, (won, lost, n)), p in zip(tables.items(), adjusted, strict=True):
        worse = lost > won and (p <= ALPHA or everywhere)
        better = won > lost and mcnemar(lost, won) <= ALPHA
        verdict: Outcome = "worse" if worse else "better" if better else "not_worse"
        mean, before = means[name]
        said = f"row checks of night {name}: {verdict}, mean score {mean:.3f}, and {before:.3f} before; "
        said += f"{lost} of {_count(n, 'row')} lost and {won} won"
        found.append(SleepCheck(name, "check", verdict, said, mean, before))
    return found


def judge_suites(
    comparison: Comparison,
    pooled: Sequence[Pair],
    anchors: Mapping[str, Sequence[Pair]],
    evidence: Sequence[Evidence],
    exact: Collection[str] = (),
) -> list[SleepCheck]:
    """Return the verdict on the suites' pooled pass rates, on each suite alone, and on each anchor.

    Args:
        comparison: of the suites and anchors.
        pooled: pairs of the suites that are pooled; ``anchors``: of each anchor.
        exact: suites whose threshold is 1: a rule about these very cases, of which none may be lost.
    """
    found = []
    if pooled:
        found.append(_rates("suites", "suite", comparison.pooled, pooled, [one.suites for one in evidence]))
    for suite in comparison.suites:
        lost = suite.suite in exact and suite.losses > 0
        verdict: Outcome = "worse" if suite.significantly_worse or lost else "not_worse"
        said = f"{suite.suite}: {verdict}, {suite.losses} of {_count(suite.n, 'case')} lost and {suite.wins} won"
        if suite.significantly_worse:
            said += f", significantly worse (adjusted p = {suite.p_adjusted:.3g})"
        elif lost:
            said += "; all of its cases must pass, so none may be lost"
        rates = [count / suite.n if suite.n else None for count in (suite.passed_candidate, suite.passed_reference)]
        found.append(SleepCheck(suite.suite, "suite", verdict, said, *rates))
    for anchor in comparison.anchors:
        earlier = [one.anchors.get(anchor.anchor, []) for one in evidence]
        check = _rates(anchor.anchor, "anchor", anchor, anchors[anchor.anchor], earlier)
        # An anchor makes nothing better.
        check.verdict = "not_worse" if check.verdict == "better" else check.verdict
        found.append(check)
    return found


def _rates(
    name: str, kind: Kind, rates: PairedRates, pairs: Sequence[Pair], evidence: Sequence[Sequence[Pair]]
) -> SleepCheck:
    earlier = [night for night in evidence if night]
    found = settled_rates(rates, pairs, earlier)
    # An anchor of few cases is judged case by case: none may be lost.
    if kind == "anchor" and rates.verdict in ("not_worse", "better"):
        found.verdict = rates.verdict
    said = f"{name}: {said_rates(rates)}"
    if found.verdict != rates.verdict:
        together = f"{found.n} pairs of {_count(len(earlier) + 1, 'night')}" if earlier else f"{found.n} pairs, too few"
        said = f"{name}: {found.verdict} on {together}; tonight {said_rates(rates)}"
    values = [count / rates.n if rates.n else None for count in (rates.passed_candidate, rates.passed_reference)]
    return SleepCheck(name, kind, found.verdict, said, *values)


def anchor_losses(anchor: str, rows: Sequence[LossDifference], candidate: float, other: float) -> SleepCheck:
    """Return the verdict on the losses of earlier nights' rows beside an anchor's: an alarm, worse or not."""
    found = loss_interval(rows)
    verdict: Outcome = "worse" if found.verdict == "worse" else "not_worse"
    said = f"held-out loss beside {anchor}: {verdict}, {found.mean:+.4f} nats a token on {_count(found.n, 'row')}"
    return SleepCheck(anchor, "anchor", verdict, said, candidate, other)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

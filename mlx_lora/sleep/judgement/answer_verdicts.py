"""Verdicts on answers: collapse, row checks, suites and anchors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...evaluation.statistics.collapse import CollapseStop
from ...evaluation.statistics.comparison import Comparison, said_rates
from ...evaluation.statistics.intervals import ALPHA, holm, margin_of, mcnemar
from ...evaluation.statistics.non_inferiority import FEWEST_ROWS, settled_rates
from ...evaluation.statistics.paired_rates import Outcome, Pair, PairedRates, anchor_rates
from .evidence import SMALL, Evidence, Kind, SleepCheck, counted
from .heldout_rows import ScoredAnswer, mean_score

# Net answers lost, and their share, that block even where too few were asked for significance.
LOST, LOST_SHARE = 3, 0.25
# Distinct answers beside the reference's and the stored ones below which answers have become one.
FEWER_ANSWERS = 0.5


@dataclass
class NightAnswers:
    """Scored answers to a night's held-out prompts; None where a prompt was not answered.

    Attributes:
        rows: names of the asked rows.
        stored: their stored answers.
    """

    night: str
    rows: list[str]
    stored: list[str]
    candidate: Sequence[ScoredAnswer | None]
    reference: Sequence[ScoredAnswer | None]

    def checked(self) -> list[Pair]:
        """Return (row, the candidate passes, the reference passes) of the rows that were checked."""
        return [
            (row, a.score.passed, b.score.passed)
            for row, a, b in zip(self.rows, self.candidate, self.reference, strict=False)
            if a is not None and b is not None and a.score is not None and b.score is not None
        ]


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
    said = f"{sum(a.collapsed for a in candidate)} of {counted(n, 'answer')} to held-out prompts collapsed, and "
    said += f"{sum(a.collapsed for a in reference)} before"
    verdict: Outcome = "not_worse"
    if stop.stopped_after is not None:
        verdict = "worse"
        said = f"the collapse stop ended the asking after {stop.stopped_after} answers ({said})"
    elif (lost and mcnemar(won, lost) <= ALPHA) or _many(lost - won, n):
        verdict = "worse"
    elif distinct[0] <= FEWER_ANSWERS * min(distinct[1:]) and min(distinct[1:]) >= SMALL:
        verdict = "worse"
        said = f"only {distinct[0]} different answers to {n} held-out prompts, and {distinct[1]} before"
    return SleepCheck("answers", "collapse", verdict, said, *shares)


def judge_stored(collapsed: int, of: int) -> SleepCheck | None:
    """Return worse where tonight's held-out experiences have collapsed themselves, so that it is what was learned."""
    if not _many(collapsed, of):
        return None
    said = f"{collapsed} of tonight's {counted(of, 'held-out experience')} are collapsed answers themselves, so it is "
    said += "the collapse that was learned; look at what the store holds"
    return SleepCheck("stored", "collapse", "worse", said)


def judge_checks(nights: Sequence[NightAnswers], tonight: str, evidence: Sequence[Evidence]) -> list[SleepCheck]:
    """Return the verdict on the row checks of each night, and on those of all earlier nights together.

    A night is worse where significantly more rows are lost than won (McNemar, Holm over nights), or net at least 3 and
    a quarter of them. All earlier nights together must be settled as a suite is; below 52 rows they are judged row by
    row, as an anchor of few cases: none may be lost. A night tonight of fewer than 8 rows is one of them.
    """
    tables = {night.night: night for night in nights if night.checked()}
    counts = {
        name: (sum(b and not a for _, a, b in pairs), sum(a and not b for _, a, b in pairs), len(pairs))
        for name, night in tables.items()
        if (pairs := night.checked())
    }
    adjusted = holm([mcnemar(won, lost) for lost, won, _ in counts.values()])
    found = []
    for (name, (lost, won, n)), p in zip(counts.items(), adjusted, strict=True):
        worse = lost > won and (p <= ALPHA or _many(lost - won, n))
        better = won > lost and mcnemar(lost, won) <= ALPHA
        verdict: Outcome = "worse" if worse else "better" if better else "not_worse"
        mean, before = mean_score(tables[name].candidate), mean_score(tables[name].reference)
        said = f"row checks of night {name}: {verdict}, mean score {mean:.3f}, and {before:.3f} before; "
        said += f"{lost} of {counted(n, 'row')} lost and {won} won"
        found.append(SleepCheck(name, "check", verdict, said, mean, before))
    pairs = earlier_checks(nights, tonight)
    if pairs:
        rates = anchor_rates(pairs, margin_of(len(pairs)))
        check = _rates("row checks", "check", rates, pairs, [one.checks for one in evidence])
        rows = {case for one in ([*pairs], *(one.checks for one in evidence)) for case, *_ in one}
        if len(rows) < FEWEST_ROWS and check.verdict != "worse":
            check.verdict = "inconclusive"
            check.said = f"row checks: {counted(len(rows), 'held-out row')} can settle nothing; it waits for more"
        found.append(check)
    return found


def earlier_checks(nights: Sequence[NightAnswers], tonight: str) -> list[Pair]:
    """Return the pairs of all earlier nights' rows that were checked, with tonight's where they are few."""
    return [
        pair for night in nights if night.night != tonight or len(night.checked()) < SMALL for pair in night.checked()
    ]


def _many(lost: int, of: int) -> bool:
    return lost >= LOST and lost >= LOST_SHARE * of


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
        said = f"{suite.suite}: {verdict}, {suite.losses} of {counted(suite.n, 'case')} lost and {suite.wins} won"
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
    # Few cases of an anchor, or of row checks, are judged one by one: none may be lost.
    if kind != "suite" and rates.verdict in ("not_worse", "better"):
        found.verdict = rates.verdict
    said = f"{name}: {said_rates(rates)}"
    if found.verdict != rates.verdict:
        together = (
            f"{found.n} pairs of {counted(len(earlier) + 1, 'night')}" if earlier else f"{found.n} pairs, too few"
        )
        said = f"{name}: {found.verdict} on {together}; tonight {said_rates(rates)}"
    values = [count / rates.n if rates.n else None for count in (rates.passed_candidate, rates.passed_reference)]
    return SleepCheck(name, kind, found.verdict, said, *values)

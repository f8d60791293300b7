"""Verdicts on held-out losses: learned tonight, and nothing forgotten of earlier nights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...evaluation.statistics.non_inferiority import (
    LossDifference,
    LossInterval,
    alarm_level,
    loss_interval,
    own_level,
    settled_losses,
)
from ...evaluation.statistics.paired_rates import Outcome
from .evidence import SMALL, Evidence, SleepCheck, counted


@dataclass
class NightLosses:
    """Losses of a night's held-out rows.

    Attributes:
        rows: those that the loss decides on. Rows of earlier nights that have a row check are judged by that alone: of
            several right answers the model comes to prefer one, and the stored one, which need not be it, gets less
            likely while every answer is right.
        candidate, reference: mean over the supervised tokens.
    """

    night: str
    rows: list[LossDifference]
    candidate: float
    reference: float


def judge_losses(nights: Sequence[NightLosses], tonight: str, evidence: Sequence[Evidence]) -> list[SleepCheck]:
    """Return the verdict on each night's held-out loss.

    Tonight's rows and those of earlier nights are two questions: learned, and not forgotten. A night of fewer than 8
    rows, tonight too, is judged together with all earlier ones; so is one that is inconclusive by itself. A night that
    is significantly worse by itself blocks, whatever the others show.
    """
    nights = [night for night in nights if night.rows]
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
    values = f"{night.candidate:.4f} nats a token, and {night.reference:.4f} before, on {counted(own.n, 'row')}"
    if interval is own:
        return f"{own.verdict}, {values}"
    pooled = [f"{nights} nights"] if nights > 1 else []
    pooled += [counted(evidence, "earlier judgement")] if evidence else []
    if interval.n == own.n or not pooled:
        more = "; more rows would settle it" if own.verdict == "inconclusive" else ""
        return f"{interval.verdict}, {values}{more}"
    said = f"{interval.n} rows of {' and '.join(pooled)} together: {interval.mean:+.4f} (from {interval.lower:+.4f})"
    return f"{interval.verdict}, {values}; {said}"


def broken_losses(night: str, rows: int, loss: float) -> SleepCheck:
    """Return the verdict where the candidate's loss is not finite: worse."""
    said = f"held-out loss of night {night}: {loss} on {counted(rows, 'row')} is not finite; the training had failed"
    return SleepCheck(night, "loss", "worse", said)


def anchor_losses(anchor: str, rows: Sequence[LossDifference], candidate: float, other: float) -> SleepCheck:
    """Return the verdict on the losses of earlier nights' rows beside an anchor's: an alarm, worse or not."""
    found = loss_interval(rows)
    verdict: Outcome = "worse" if found.verdict == "worse" else "not_worse"
    said = f"held-out loss beside {anchor}: {verdict}, {found.mean:+.4f} nats a token on {counted(found.n, 'row')}"
    return SleepCheck(anchor, "anchor", verdict, said, candidate, other)

"""Measurement of all models of a judgement, one in memory at a time, the candidate last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...backends.adapter_format import ADAPTER_FILE
from ...engines.reply import Reply
from ...errors import UserError
from ...evaluation.compare_targets import collapse_watch
from ...evaluation.measurement import Measurement, Session
from ...evaluation.statistics.collapse import CollapseStop
from ...files import sha256_of
from ...runs.resolve import Reference
from ..checks import RowCheck
from .heldout_rows import HeldoutNight, ScoredAnswer, score_answers

ANCHORS = ("base", "best")


@dataclass
class Measured:
    """Measurements by role, and the scored answers to the held-out prompts by night."""

    roles: dict[str, Measurement]
    before: dict[str, list[ScoredAnswer | None]]
    after: dict[str, list[ScoredAnswer | None]]
    stop: CollapseStop


class _Watch:
    """Scores of the answers to the probes as they arrive; ends the asking of a candidate that has collapsed."""

    def __init__(self, nights: Sequence[HeldoutNight], checks: Mapping[str, RowCheck], stop: CollapseStop) -> None:
        self.nights = {night.probe.name: night for night in nights if night.cases}
        self.checks, self.stop = checks, stop
        self.scored: dict[str, list[ScoredAnswer | None]] = {}
        self.beside: dict[str, list[ScoredAnswer | None]] = {}

    def __call__(self, probe: str, replies: Sequence[Reply]) -> bool:
        night = self.nights[probe]
        scored = self.scored.setdefault(night.name, [])
        new = score_answers(night, replies, self.checks, len(scored))
        for answer, other in zip(new, self.beside.get(night.name, [])[len(scored) :], strict=False):
            if answer is not None and other is not None and self.stop.stopped_after is None:
                self.stop.add(answer.good, other.good)
        scored.extend(new)
        return self.stop.stopped_after is not None


def measure(
    session: Session, nights: Sequence[HeldoutNight], checks: Mapping[str, RowCheck], found: Mapping[str, Reference]
) -> Measured | None:
    """Measure all models, the candidate last; None where the live adapter gives losses that are not finite."""
    identities = {identity_of(found["reference"])}
    roles, stop = {}, CollapseStop()
    sampled = any(evaluation.suite.generation.temperature > 0 for evaluation in session.evaluations)
    before, after = _Watch(nights, checks, CollapseStop()), _Watch(nights, checks, stop)
    for role in ANCHORS:
        if role in found and identity_of(found[role]) not in identities:
            identities.add(identity_of(found[role]))
            roles[role] = session.measure(found[role].name)
    reruns = (2 if sampled else 1) if session.evaluations else 0
    reference = session.measure(found["reference"].name, reruns=reruns, probe=before)
    if reference.broken:
        if found["reference"].adapter is None:
            raise UserError(f"{reference.name}: the held-out loss of the base is not finite; use another base")
        return None
    after.beside = before.scored
    watch = collapse_watch(stop, reference)
    candidate = session.measure(found["candidate"].name, stop=watch, probe=after)
    return Measured({**roles, "reference": reference, "candidate": candidate}, before.scored, after.scored, stop)


def identity_of(reference: Reference) -> str:
    """Return a hash of a model's weights: of its adapter, else of the base."""
    if reference.adapter is not None:
        return sha256_of(reference.adapter / ADAPTER_FILE)
    return reference.base.fingerprint

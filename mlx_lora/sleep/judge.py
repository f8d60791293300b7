"""Judgement of a night's candidate: held-out losses, answers, suites and anchors, beside what is live.

One model is in memory at a time: base, best, reference, then the candidate. What they answered is kept in a directory,
so that an interrupted judgement asks only what is missing, and the milder candidates of the night ask the others
nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.adapter_format import ADAPTER_FILE
from ..engines.reply import Reply
from ..errors import UserError
from ..evaluation.collapse import CollapseStop
from ..evaluation.compare_targets import collapse_watch, suite_pairs
from ..evaluation.comparison import compare
from ..evaluation.heldout import training_length
from ..evaluation.measurement import Measurement, Progress, Session
from ..evaluation.non_inferiority import LossDifference
from ..evaluation.paired_rates import Outcome, Pair
from ..evaluation.runner import Evaluation, prepare_suites
from ..evaluation.scorers.base import prompt_text
from ..evaluation.suite import find_suites
from ..export.tensors import read_header, to_float32
from ..files import FORMAT, locked_directory, sha256_of
from ..models.resolve import check_safetensors
from ..runs.resolve import Reference, resolve_model_or_run
from .checks import RowCheck
from .heldout_rows import HeldoutNight, ScoredAnswer, mark_stock_phrases, mean_score, read_nights, score_answers
from .verdicts import (
    Evidence,
    NightLosses,
    SleepCheck,
    anchor_losses,
    broken_losses,
    judge_checks,
    judge_collapse,
    judge_losses,
    judge_suites,
    read_evidence,
)

# Held-out rows whose answers before and after are shown.
SHOWN = 8
ANCHORS = ("base", "best")


@dataclass
class Judgement:
    """Verdict on a candidate.

    Attributes:
        verdict: better, not_worse, worse or inconclusive; the first two pass.
        reasons: a sentence for each check that decides it.
        checks: ``{"name", "kind", "verdict", "said", "candidate", "reference"}``, kind suite, loss, anchor, collapse or
            check.
        scores: night → mean score of the candidate on that night's held-out rows, where their store has a check.
        losses: night → the candidate's held-out loss, nats a token.
        answers: ``{"prompt", "expected", "before", "after"}`` of a few held-out rows.
        pairs: evidence for later judgements against the same live adapter; empty where the candidate is broken.
    """

    verdict: Outcome
    passed: bool
    reasons: list[str]
    checks: list[dict[str, Any]]
    scores: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    answers: list[dict[str, str]] = field(default_factory=list)
    pairs: dict[str, Any] = field(default_factory=dict)


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda done: None


def judge(
    candidate: Path,
    reference: str,
    *,
    base: str,
    best: str | None,
    parts: Mapping[str, Path],
    suites: str | None,
    checks: Mapping[str, RowCheck],
    out: Path,
    evidence: Sequence[Mapping[str, Any]] = (),
    backend: str = "auto",
    progress: Progress = no_progress,
    notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> Judgement:
    """Judge a candidate beside the live adapter; docs/sleep.md says what each check asks.

    Args:
        reference: the live adapter, or the base where there is none.
        best: the best adapter ever, or None.
        parts: night → dataset directory, of which the validation split is used; the last one is tonight's.
        suites: names, groups or files, separated by commas.
        checks: of the rows, by the store's name.
        out: directory of the answers; the same one for all candidates of a night.
        evidence: ``pairs`` of the judgements of earlier nights whose candidates were not promoted; those against
            another live adapter are left aside.

    Raises:
        UserError: a target cannot be opened, a suite or a dataset cannot be read, or ``out`` is in use.
    """
    if said := not_finite(candidate):
        check = SleepCheck("adapter", "loss", "worse", said)
        return Judgement("worse", False, [said], [asdict(check)])
    nights = read_nights(parts)
    evaluations = [] if suites is None else prepare_suites(find_suites(suites), None, {})
    if not nights and not evaluations:
        said = "there is no held-out row yet and no suite, so nothing can judge the candidate; it waits for more rows"
        return Judgement("inconclusive", False, [said], [])
    names = {"base": base, "best": best, "reference": reference, "candidate": str(candidate)}
    found = {role: resolve_model_or_run(name) for role, name in names.items() if name is not None}
    length = training_length([found["candidate"].run, found["reference"].run])
    probes = [night.probe for night in nights if night.cases]
    session = Session(evaluations, [n.part for n in nights], length, out, backend, progress, notes, probes)
    with locked_directory(out, "another judgement is writing there; wait for it, or choose another directory"):
        measured = _measure(session, nights, checks, found)
    if measured is None:
        notes(
            [f"{reference}: what is live gives losses that are not finite, so the candidate is judged beside the base"]
        )
        options: dict[str, Any] = {"backend": backend, "progress": progress, "notes": notes}
        return judge(
            candidate, base, base=base, best=None, parts=parts, suites=suites, checks=checks, out=out, **options
        )
    return _judgement(measured, nights, evaluations, next(reversed(list(parts)), ""), found, evidence)


def not_finite(adapter: Path) -> str | None:
    """Return a sentence if an adapter holds a number that is not finite.

    Raises:
        UserError: its file is missing or broken.
    """
    file = adapter / ADAPTER_FILE
    check_safetensors(file)
    for name, stored in read_header(file).items():
        if not np.isfinite(to_float32(stored.read(), stored.dtype)).all():
            return f"{file}: {name} holds a number that is not finite, so the training of it had failed"
    return None


@dataclass
class _Measured:
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


def _measure(
    session: Session, nights: Sequence[HeldoutNight], checks: Mapping[str, RowCheck], found: Mapping[str, Reference]
) -> _Measured | None:
    """Measure all models, the candidate last; None where the live adapter gives losses that are not finite."""
    identities = {_identity(found["reference"])}
    roles, stop = {}, CollapseStop()
    sampled = any(evaluation.suite.generation.temperature > 0 for evaluation in session.evaluations)
    before, after = _Watch(nights, checks, CollapseStop()), _Watch(nights, checks, stop)
    for role in ANCHORS:
        if role in found and _identity(found[role]) not in identities:
            identities.add(_identity(found[role]))
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
    return _Measured({**roles, "reference": reference, "candidate": candidate}, before.scored, after.scored, stop)


def _identity(reference: Reference) -> str:
    """Return a hash of a model's weights: of its adapter, else of the base."""
    if reference.adapter is not None:
        return sha256_of(reference.adapter / ADAPTER_FILE)
    return reference.base.fingerprint


def _judgement(
    measured: _Measured,
    nights: Sequence[HeldoutNight],
    evaluations: Sequence[Evaluation],
    tonight: str,
    found: Mapping[str, Reference],
    evidence: Sequence[Mapping[str, Any]],
) -> Judgement:
    candidate, reference = measured.roles["candidate"], measured.roles["reference"]
    anchors = {role: measured.roles[role] for role in ANCHORS if role in measured.roles}
    identities = {role: _identity(found[role]) for role in (*anchors, "reference")}
    usable = _usable(evidence, identities)
    losses = [_night_losses(night, candidate, reference) for night in nights]
    checks = [
        broken_losses(n.night, len(n.rows), n.candidate, n.reference)
        for n in losses
        if not math.isfinite(math.fsum(row.difference for row in n.rows))
    ]
    pairs: dict[str, Any] = {}
    if not checks:
        checks, kept = _checks(measured, nights, losses, evaluations, tonight, anchors, usable)
        if measured.stop.stopped_after is None:
            kept.anchors = {identities[role]: of for role, of in kept.anchors.items()}
            pairs = {"format": FORMAT, "against": identities["reference"], **kept.to_dict()}
    verdict = _worst(check.verdict for check in checks)
    scores = {name: mean for name, answers in measured.after.items() if (mean := mean_score(answers)) is not None}
    return Judgement(
        verdict,
        verdict in ("better", "not_worse"),
        [check.said for check in checks if check.verdict == verdict],
        [asdict(check) for check in checks],
        scores,
        {n.night: n.candidate for n in losses if math.isfinite(n.candidate)},
        _shown(nights, measured),
        pairs,
    )


def _usable(evidence: Sequence[Mapping[str, Any]], identities: Mapping[str, str]) -> list[Evidence]:
    """Return the evidence against this reference, its anchors by their roles."""
    read = [read_evidence(one) for one in evidence if one.get("against") == identities["reference"]]
    usable = [one for one in read if one is not None]
    for one in usable:
        one.anchors = {role: one.anchors.get(identity, []) for role, identity in identities.items()}
    return usable


def _checks(
    measured: _Measured,
    nights: Sequence[HeldoutNight],
    losses: Sequence[NightLosses],
    evaluations: Sequence[Evaluation],
    tonight: str,
    anchors: Mapping[str, Measurement],
    evidence: Sequence[Evidence],
) -> tuple[list[SleepCheck], Evidence]:
    """Return all checks, and what they leave for later nights."""
    checks = judge_losses(losses, tonight, evidence)
    kept = Evidence()
    for night in losses:
        (kept.new if night.night == tonight else kept.earlier).extend(night.rows)
    candidate, reference = measured.roles["candidate"], measured.roles["reference"]
    for role, anchor in anchors.items():
        earlier = [_night_losses(night, candidate, anchor) for night in nights if night.name != tonight]
        rows = [row for night in earlier for row in night.rows]
        if rows and all(math.isfinite(row.difference) for row in rows):
            means = [sum(getattr(n, key) for n in earlier) / len(earlier) for key in ("candidate", "reference")]
            checks.append(anchor_losses(role, rows, *means))
    checks += _answers(measured, nights)
    suites = [evaluation.suite for evaluation in evaluations if evaluation.suite.name in candidate.reports]
    if suites:
        found = {suite.name: suite_pairs(candidate, reference, suite.name) for suite in suites}
        exact = {suite.name for suite in suites if all(limit.value >= 1 for limit in suite.limits)}
        pool = {suite.name for suite in suites if suite.gate == "ship"} or set(found)
        pool -= exact
        kept.anchors = {role: _all_pairs(candidate, other, found) for role, other in anchors.items()}
        comparison = compare(found, pool=pool, reruns=reference.reruns, anchors=kept.anchors)
        unstable = {(case["suite"], case["id"]) for case in comparison.unstable}
        kept.suites = [
            (f"{name}: {case}", first, second)
            for name in found
            if name in pool
            for case, first, second in found[name]
            if (name, case) not in unstable
        ]
        checks += judge_suites(comparison, kept.suites, kept.anchors, evidence, exact)
    return checks, kept


def _all_pairs(candidate: Measurement, other: Measurement, suites: Mapping[str, Any]) -> list[Pair]:
    return [(f"{name}: {case}", a, b) for name in suites for case, a, b in suite_pairs(candidate, other, name)]


def _answers(measured: _Measured, nights: Sequence[HeldoutNight]) -> list[SleepCheck]:
    """Return the checks of the answers to the held-out prompts."""
    after, before, stored = [], [], []
    for night in nights:
        answered = zip(
            measured.after.get(night.name, []), measured.before.get(night.name, []), night.cases, strict=False
        )
        for new, old, case in answered:
            if new is not None and old is not None:
                after.append(new)
                before.append(old)
                stored.append(str(case.expect))
    if not after:
        return []
    mark_stock_phrases(after)
    mark_stock_phrases(before)
    tables = {n.name: (measured.after.get(n.name, []), measured.before.get(n.name, [])) for n in nights}
    return [judge_collapse(after, before, stored, measured.stop), *judge_checks(tables)]


def _night_losses(night: HeldoutNight, candidate: Measurement, other: Measurement) -> NightLosses:
    """Return the differences of a night's rows, other − candidate.

    Raises:
        UserError: the two read the rows as other tokens.
    """
    first, second = candidate.losses[night.name], other.losses[night.name]
    if first.tokens_sha256 != second.tokens_sha256:
        raise UserError(
            f"{night.part.file}: {candidate.name} and {other.name} read these rows as other tokens, since their chat "
            "templates differ; train the night with the template of what is live"
        )
    clusters = night.part.clusters or [None] * len(night.rows)
    rows = [
        LossDifference(row, cluster if isinstance(cluster, str) else None, b - a)
        for row, cluster, a, b in zip(night.rows, clusters, first.losses, second.losses, strict=True)
    ]
    return NightLosses(night.name, rows, first.mean, second.mean)


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return worse or inconclusive if one is, else better if one is, else not_worse."""
    found = set(outcomes)
    order: tuple[Outcome, ...] = ("worse", "inconclusive", "better")
    return next((outcome for outcome in order if outcome in found), "not_worse")


def _shown(nights: Sequence[HeldoutNight], measured: _Measured) -> list[dict[str, str]]:
    """Return a few held-out rows with the answers before and after, the newest night's first."""
    found: list[dict[str, str]] = []
    for night in reversed(nights):
        answered = [
            {"prompt": prompt_text(case), "expected": str(case.expect), "before": old.text, "after": new.text}
            for case, old, new in zip(
                night.cases, measured.before.get(night.name, []), measured.after.get(night.name, []), strict=False
            )
            if old is not None and new is not None
        ]
        # Half of the place is the newest night's, and half of what is left the next one's.
        room = max(1, (SHOWN - len(found)) // 2) if night is not nights[0] else SHOWN - len(found)
        found += answered[:: max(1, len(answered) // room)][:room] if len(found) < SHOWN else []
    return found

"""Verdicts on what was measured of a night's models, and the judgement that they make together."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import UserError
from ...evaluation.compare_targets import suite_pairs
from ...evaluation.measurement import Measurement
from ...evaluation.runner import Evaluation
from ...evaluation.scorers.base import prompt_text
from ...evaluation.statistics.comparison import compare
from ...evaluation.statistics.non_inferiority import LossDifference
from ...evaluation.statistics.paired_rates import Outcome, Pair
from ...files import FORMAT
from ...runs.resolve import Reference
from .answer_verdicts import NightAnswers, earlier_checks, judge_checks, judge_collapse, judge_stored, judge_suites
from .evidence import SMALL, Evidence, SleepCheck, read_evidence
from .heldout_rows import HeldoutNight, collapsed_experiences, mark_stock_phrases, mean_score
from .loss_verdicts import NightLosses, anchor_losses, broken_losses, judge_losses
from .measurement import ANCHORS, Measured, identity_of

# Held-out rows whose answers before and after are shown.
SHOWN = 8
NOTHING = "nothing that was measured can judge the candidate; it waits for more rows"


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


@dataclass
class Assessment:
    """Verdicts on what was measured.

    Attributes:
        checked: stores whose rows have a check.
    """

    measured: Measured
    nights: Sequence[HeldoutNight]
    evaluations: Sequence[Evaluation]
    tonight: str
    checked: Collection[str]
    found: Mapping[str, Reference]
    notes: Callable[[Sequence[str]], None]

    def judgement(self, evidence: Sequence[Mapping[str, Any]]) -> Judgement:
        """Return the judgement."""
        candidate, reference = self.candidate, self.measured.roles["reference"]
        identities = {role: identity_of(self.found[role]) for role in (*self.anchors, "reference")}
        losses = [one for night in self.nights if (one := self._losses(night, reference)) is not None]
        checks = [
            broken_losses(name, len(part.losses), part.mean)
            for name, part in candidate.losses.items()
            if not math.isfinite(part.mean)
        ]
        pairs: dict[str, Any] = {}
        if not checks:
            checks, kept = self._checks(losses, _usable(evidence, identities))
            if self.measured.stop.stopped_after is None:
                kept.anchors = {identities[role]: of for role, of in kept.anchors.items()}
                pairs = {"format": FORMAT, "against": identities["reference"], **kept.to_dict()}
        verdict = _worst(check.verdict for check in checks) if checks else "inconclusive"
        reasons = [check.said for check in checks if check.verdict == verdict] or [NOTHING]
        scores = {
            name: mean for name, answers in self.measured.after.items() if (mean := mean_score(answers)) is not None
        }
        return Judgement(
            verdict,
            verdict in ("better", "not_worse"),
            reasons,
            [asdict(check) for check in checks],
            scores,
            {name: part.mean for name, part in candidate.losses.items() if math.isfinite(part.mean)},
            self._shown(),
            pairs,
        )

    @property
    def candidate(self) -> Measurement:
        """Measurement of the candidate."""
        return self.measured.roles["candidate"]

    @property
    def anchors(self) -> dict[str, Measurement]:
        """Measurements of the anchors that are neither the reference nor each other."""
        return {role: self.measured.roles[role] for role in ANCHORS if role in self.measured.roles}

    def _losses(self, night: HeldoutNight, other: Measurement) -> NightLosses | None:
        """Return the differences of a night's rows, other − candidate; None where they read the rows as other tokens.

        Raises:
            UserError: the other one is what is live, an adapter.
        """
        first, second = self.candidate.losses[night.name], other.losses[night.name]
        if first.tokens_sha256 != second.tokens_sha256:
            if other is self.measured.roles["reference"] and self.found["reference"].adapter is not None:
                raise UserError(
                    f"{night.part.file}: {self.candidate.name} and {other.name} read these rows as other tokens, since "
                    "their chat templates differ; train the night with the template of what is live"
                )
            self.notes([f"{other.name} has another chat template, so its held-out losses are not comparable"])
            return None
        clusters = night.part.clusters or [None] * len(night.rows)
        # See NightLosses: tonight's rows were trained as they are stored, so their loss decides where they are enough.
        decides = night.name == self.tonight and len(night.rows) >= SMALL
        rows = [
            LossDifference(row, cluster if isinstance(cluster, str) else None, b - a)
            for row, example, cluster, a, b in zip(
                night.rows, night.part.examples, clusters, first.losses, second.losses, strict=True
            )
            if decides or example.meta.get("sleep_store") not in self.checked
        ]
        return NightLosses(night.name, rows, first.mean, second.mean)

    def _checks(self, losses: Sequence[NightLosses], evidence: Sequence[Evidence]) -> tuple[list[SleepCheck], Evidence]:
        """Return all checks, and what they leave for later nights."""
        kept, answers = Evidence(), self._answers()
        for night in losses:
            (kept.new if night.night == self.tonight else kept.earlier).extend(night.rows)
        kept.checks = earlier_checks(answers, self.tonight)
        of_losses, of_rows = judge_losses(losses, self.tonight, evidence), judge_checks(answers, self.tonight, evidence)
        if any(check.name == self.tonight and check.verdict == "better" for check in of_rows):
            _settle_by_checks(of_losses, self.tonight)
        checks = [*of_losses, *self._anchor_losses(), *self._stored(), *self._collapse(answers), *of_rows]
        checks += self._suites(kept, evidence)
        self._drop_settled(kept, checks)
        return checks, kept

    def _drop_settled(self, kept: Evidence, checks: Sequence[SleepCheck]) -> None:
        """Drop the evidence on what is settled: a later night must not look harder at it for tonight's other faults."""
        unsettled = {(c.kind, c.name) for c in checks if c.verdict in ("inconclusive", "worse")}
        nights = {name for kind, name in unsettled if kind == "loss"}
        kept.new = kept.new if self.tonight in nights else []
        kept.earlier = kept.earlier if nights - {self.tonight} else []
        kept.checks = kept.checks if ("check", "row checks") in unsettled else []
        kept.suites = kept.suites if ("suite", "suites") in unsettled else []
        kept.anchors = {role: pairs for role, pairs in kept.anchors.items() if ("anchor", role) in unsettled}

    def _anchor_losses(self) -> list[SleepCheck]:
        found = []
        for role, anchor in self.anchors.items():
            nights = [self._losses(night, anchor) for night in self.nights if night.name != self.tonight]
            known = [night for night in nights if night is not None and night.rows]
            rows = [row for night in known for row in night.rows]
            if rows and all(math.isfinite(row.difference) for row in rows):
                ours, theirs = (sum(getattr(n, key) for n in known) / len(known) for key in ("candidate", "reference"))
                found.append(anchor_losses(role, rows, ours, theirs))
        return found

    def _answers(self) -> list[NightAnswers]:
        return [
            NightAnswers(
                night.name,
                [night.rows[number] for number in night.asked],
                [str(case.expect) for case in night.cases],
                self.measured.after.get(night.name, []),
                self.measured.before.get(night.name, []),
            )
            for night in self.nights
        ]

    def _stored(self) -> list[SleepCheck]:
        counts = [collapsed_experiences(night) for night in self.nights if night.name == self.tonight]
        return [check for collapsed, of in counts if (check := judge_stored(collapsed, of)) is not None]

    def _collapse(self, nights: Sequence[NightAnswers]) -> list[SleepCheck]:
        both = [
            (new, old, stored)
            for night in nights
            for new, old, stored in zip(night.candidate, night.reference, night.stored, strict=False)
            if new is not None and old is not None
        ]
        if not both:
            return []
        after, before = [new for new, _, _ in both], [old for _, old, _ in both]
        mark_stock_phrases(after)
        mark_stock_phrases(before)
        return [judge_collapse(after, before, [stored for *_, stored in both], self.measured.stop)]

    def _suites(self, kept: Evidence, evidence: Sequence[Evidence]) -> list[SleepCheck]:
        """Return the checks of the suites and their anchors; their pairs are kept for later nights."""
        reference = self.measured.roles["reference"]
        suites = [e.suite for e in self.evaluations if e.suite.name in self.candidate.reports]
        if not suites:
            return []
        pairs = {suite.name: suite_pairs(self.candidate, reference, suite.name) for suite in suites}
        exact = {suite.name for suite in suites if all(limit.value >= 1 for limit in suite.limits)}
        pool = ({suite.name for suite in suites if suite.gate == "ship"} or set(pairs)) - exact
        kept.anchors = {role: _all_pairs(self.candidate, other, pairs) for role, other in self.anchors.items()}
        comparison = compare(pairs, pool=pool, reruns=reference.reruns, anchors=kept.anchors)
        unstable = {(case["suite"], case["id"]) for case in comparison.unstable}
        kept.suites = [
            (f"{name}: {case}", first, second)
            for name in pairs
            if name in pool
            for case, first, second in pairs[name]
            if (name, case) not in unstable
        ]
        return judge_suites(comparison, kept.suites, kept.anchors, evidence, exact)

    def _shown(self) -> list[dict[str, str]]:
        """Return a few held-out rows with the answers before and after, half of them of the newest night."""
        found: list[dict[str, str]] = []
        for night in reversed(self.nights):
            after, before = self.measured.after.get(night.name, []), self.measured.before.get(night.name, [])
            answered = [
                {"prompt": prompt_text(case), "expected": str(case.expect), "before": old.text, "after": new.text}
                for case, old, new in zip(night.cases, before, after, strict=False)
                if old is not None and new is not None
            ]
            left = SHOWN - len(found)
            room = left if night is self.nights[0] else -(-left // 2)
            found += answered[:: max(1, len(answered) // max(1, room))][:room]
        return found


def _settle_by_checks(checks: Sequence[SleepCheck], tonight: str) -> None:
    """Settle tonight's held-out loss, where it alone is inconclusive, by row checks that are significantly better."""
    for check in checks:
        if check.name == tonight and check.verdict == "inconclusive":
            check.verdict = "not_worse"
            check.said += "; settled by its row checks, which are better"


def _usable(evidence: Sequence[Mapping[str, Any]], identities: Mapping[str, str]) -> list[Evidence]:
    """Return the evidence against this reference, its anchors by their roles."""
    read = [read_evidence(one) for one in evidence if one.get("against") == identities["reference"]]
    usable = [one for one in read if one is not None]
    for one in usable:
        one.anchors = {role: one.anchors.get(identity, []) for role, identity in identities.items()}
    return usable


def _all_pairs(candidate: Measurement, other: Measurement, suites: Iterable[str]) -> list[Pair]:
    return [(f"{name}: {case}", a, b) for name in suites for case, a, b in suite_pairs(candidate, other, name)]


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return worse or inconclusive if one is, else better if one is, else not_worse."""
    found = set(outcomes)
    order: tuple[Outcome, ...] = ("worse", "inconclusive", "better")
    return next((outcome for outcome in order if outcome in found), "not_worse")

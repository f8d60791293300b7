"""Report of one suite: rates with intervals, thresholds, the best constant answer, and every result."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError
from ..files import FORMAT
from .cases import Case
from .constant_answer import ConstantAnswer, balanced_mean, mean
from .scorers import SUMMARIES
from .scorers.base import Score, Scorer
from .scoring import score_text
from .statistics.intervals import Verdict, f1_verdict, verdict, wilson
from .statistics.paired_means import mean_verdict
from .suite import Generation, Limit, Suite
from .targets.target import Target

PASS_RATE = "pass_rate"
# Scores that are computed for the best constant answer: all answers of 100 cases, the most frequent ones of more.
TRIED = 10_000
# Seconds after which no further candidate is tried: a user's pattern may take its whole time limit on each answer.
TRIED_SECONDS = 60.0
# What only a summary gives, since it is not a number: a user's own function may use the names.
SUMMARIZED = {"warnings", "best_constant"}
# Checks that run a program or a model: too slow to be tried with every candidate.
SLOW_CHECKS = {"command", "python", "claims"}


@dataclass
class Criterion:
    """Threshold of a suite, and what was reached.

    Attributes:
        verdict: PASS, FAIL or INCONCLUSIVE by the one-sided 95 % bounds; ``met`` compares the value itself.
        interval: Wilson's 95 % interval of a pass rate, else the one-sided bounds.
    """

    criterion: str
    asked: str
    reached: float
    met: bool
    verdict: str
    interval: tuple[float, float]
    cases_needed: int | None


def suite_report(
    suite: Suite,
    target: Target,
    cases: Sequence[Case],
    replies: Sequence[Reply],
    scores: Sequence[Score],
    scorers: Sequence[Scorer],
    generation: Generation,
) -> dict[str, Any]:
    """Return the report: the published fields, the fields against fooling, and every result.

    Metrics are over the cases that were answered; for thresholds, the other ones count 0.

    Raises:
        UserError: a threshold is on a metric that no answer has.
    """
    rows = [row for row in zip(cases, replies, scores, strict=True) if row[1].text is not None]
    texts, measured = [reply.text or "" for _, reply, _ in rows], [score for _, _, score in rows]
    metrics = suite_metrics(suite, [case for case, _, _ in rows], texts, measured)
    answered, share = len(rows), len(rows) / len(cases)
    criteria = [_criterion(suite, limit, metrics, scores, measured) for limit in suite.limits]
    best = metrics.pop("best_constant", None) or best_constant_answer(suite, cases, texts, scorers)
    # A check that knows its best constant warns itself.
    own = metrics.pop("warnings", None)
    said = _constant_warning(suite, best) if own is None else own
    missing = f"{len(cases) - answered} of {len(cases)} cases were not answered, and count as failed; see their reasons"
    warnings = [*target.warnings, *said, *([missing] if answered < len(cases) else [])]
    passed = sum(score.passed for score in scores)
    balanced = balanced_mean([case.group for case in cases], [score.passed for score in scores])
    fields = {
        "format": FORMAT,
        "suite": suite.name,
        "test_name": suite.name,
        "description": suite.description,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": target.name,
        "target_identity": target.identity,
        "suite_sha256": suite.sha256(),
        "gate": suite.gate,
        "total_tests": len(cases),
        "passed": passed,
        "failed": len(cases) - passed,
        "not_answered": len(cases) - answered,
        "pass_rate": passed / len(cases),
        "threshold": suite.limits[0].value,
        "measure": suite.limits[0].metric,
        "score": criteria[0].reached,
        "gate_passed": all(criterion.met for criterion in criteria),
        "verdict": _joint(criteria),
        "interval": criteria[0].interval,
        "cases_needed": _cases_needed(criteria),
        "criteria": [asdict(criterion) for criterion in criteria],
        "reasons": [_reason(criterion) for criterion in criteria if not criterion.met],
        "balanced": share * metrics["balanced_coherence"] if "balanced_coherence" in metrics else balanced,
        "best_constant": best,
        "distinct_answers": len({text.strip() for text in texts}),
        "warnings": warnings,
        **asdict(generation),
        "performance": target.performance(),
        "results": [_result(*row) for row in zip(cases, replies, scores, strict=True)],
    }
    # A user's own function may name a metric as it likes.
    return fields | {name: value for name, value in metrics.items() if name not in fields}


def suite_metrics(suite: Suite, cases: Sequence[Case], texts: Sequence[str], scores: Sequence[Score]) -> dict[str, Any]:
    """Return the means of the cases' metrics, what the checks summarize, and the pass rate."""
    names = dict.fromkeys(name for score in scores for name in score.metrics if name not in SUMMARIZED)
    means = {name: mean(score.metrics[name] for score in scores if name in score.metrics) for name in names}
    summaries = [SUMMARIES[c.name](cases, texts, scores) for c in suite.checks if c.name in SUMMARIES]
    joint = {name: value for summary in summaries for name, value in summary.items()}
    return {**means, **joint, PASS_RATE: mean(score.passed for score in scores)}


def _criterion(
    suite: Suite, limit: Limit, metrics: Mapping[str, Any], scores: Sequence[Score], measured: Sequence[Score]
) -> Criterion:
    share = len(measured) / len(scores)
    if measured and not isinstance(metrics.get(limit.metric), (int, float)):
        known = ", ".join(sorted(name for name, value in metrics.items() if isinstance(value, (int, float))))
        raise UserError(
            f"{suite.file}: the threshold is on {limit.metric}, which none of its checks measures; they measure {known}"
        )
    reached, found = share * float(metrics.get(limit.metric, 0.0)), _verdict(suite, limit, scores, measured)
    interval = (found.lower, found.upper)
    if limit.metric == PASS_RATE:
        interval = wilson(sum(score.passed for score in scores), len(scores))
    name = limit.metric.replace("_", " ")
    return Criterion(name, str(limit), reached, limit.met(reached), found.verdict, interval, found.cases_needed)


def _verdict(suite: Suite, limit: Limit, scores: Sequence[Score], measured: Sequence[Score]) -> Verdict:
    if limit.metric == PASS_RATE:
        return verdict(sum(score.passed for score in scores), len(scores), limit.value)
    if limit.metric == "f1" and any(check.name == "refusal" for check in suite.checks):
        # A refusal that passed is a true positive, one that failed a false one.
        found = Counter((score.passed, bool(score.metrics.get("refused"))) for score in scores)
        return f1_verdict(found[True, True], found[False, True], found[False, False], limit.value, len(scores))
    # The published mean_coherence is over valid answers.
    name = {"mean_coherence": "coherence", "valid_rate": "valid"}.get(limit.metric, limit.metric)
    chosen = [s for s in measured if name in s.metrics and (limit.metric != "mean_coherence" or s.metrics["valid"])]
    values = [score.metrics[name] for score in chosen]
    return mean_verdict(values + [0.0] * (len(scores) - len(measured)) if values else [], limit.value)


def _joint(criteria: Sequence[Criterion]) -> str:
    verdicts = {criterion.verdict for criterion in criteria}
    return next((name for name in ("FAIL", "INCONCLUSIVE") if name in verdicts), "PASS")


def _cases_needed(criteria: Sequence[Criterion]) -> int | None:
    """Return how many more cases would settle an inconclusive verdict, None if it is settled or no number would."""
    if _joint(criteria) != "INCONCLUSIVE":
        return None
    return max((c.cases_needed or 0 for c in criteria if c.verdict == "INCONCLUSIVE"), default=0) or None


def _reason(criterion: Criterion) -> str:
    return f"{criterion.criterion} {criterion.reached:.3f} is not {criterion.asked}"


def best_constant_answer(
    suite: Suite, cases: Sequence[Case], texts: Sequence[str], scorers: Sequence[Scorer]
) -> dict[str, Any] | None:
    """Return the answer that scores best when given to every case: of those given, and of the references.

    None where a check of the suite runs a program or a model.
    """
    if any(check.name in SLOW_CHECKS for check in suite.checks):
        return None
    most = max(1, TRIED // len(cases))
    given = [text for text, _ in Counter(texts).most_common(most) if text]
    references = dict.fromkeys(text for case in cases if (text := _reference_text(case.expect)))
    best: ConstantAnswer[str] | None = None
    until = time.monotonic() + TRIED_SECONDS
    for answer in dict.fromkeys([*given, *list(references)[:most]]):
        if time.monotonic() > until:
            break
        scores = [score_text(scorers, case, answer) for case in cases]
        reached = suite_metrics(suite, cases, [answer] * len(cases), scores).get(suite.limits[0].metric, 0.0)
        if best is None or reached > best.score:
            balanced = balanced_mean([case.group for case in cases], [score.passed for score in scores])
            best = ConstantAnswer(answer, reached, balanced)
    return None if best is None else asdict(best)


def _reference_text(expect: Any) -> str:
    """Return a reference as an answer: a list of texts that an answer contains as lines, an object as JSON."""
    if isinstance(expect, str):
        return expect
    if isinstance(expect, list) and all(isinstance(text, str) for text in expect):
        return "\n".join(expect)
    return "" if expect is None else json.dumps(expect, ensure_ascii=False)


def _constant_warning(suite: Suite, best: Mapping[str, Any] | None) -> list[str]:
    if best is None or not suite.limits[0].met(best["score"]):
        return []
    return [
        f"these cases cannot tell a model from a constant: one answer given to all of them reaches "
        f"{best['score']:.3f}, and the threshold is {suite.limits[0]}; judge by the mean over classes too"
    ]


def _result(case: Case, reply: Reply, score: Score) -> dict[str, Any]:
    return {
        "id": case.id,
        "tags": case.tags,
        "passed": score.passed,
        "reason": score.reason,
        "metrics": score.metrics,
        "prompt": case.messages[-1]["content"],
        "answer": reply.text,
        "error": reply.error,
    }

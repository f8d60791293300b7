"""Gates: the decision to deploy, from the reports of several suites.

Ship suites must pass; quality suites must pass or be waived by name, with a reason that is recorded. A report that is
missing, empty, incomplete or inconsistent blocks deployment, and no waiver helps: nothing was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ..errors import UserError, shortened
from ..files import FORMAT
from .statistics.intervals import Decision

GATES = ("ship", "quality")
VERDICTS = get_args(Decision)
# Lowest mean of the suites' pass rates.
TARGET_SCORE = 0.90
FIELDS = ("test_name", "total_tests", "passed", "failed", "pass_rate", "gate", "gate_passed", "results")

# Key of a stand-in for a report that was found and cannot be judged: the reason.
UNUSABLE = "unusable"

Status = Literal["PASSED", "FAILED", "BLOCKED", "WAIVED"]


@dataclass
class GateResult:
    """Decision on one suite.

    Attributes:
        verdict: the report's PASS, FAIL or INCONCLUSIVE, ``None`` when blocked.
        reasons: why it did not pass, a sentence each.
        waiver: the reason given for a waiver that was used.
    """

    test_name: str
    gate: str
    status: Status
    pass_rate: float | None
    threshold: float | None
    passed: int
    failed: int
    total_tests: int
    gate_passed: bool
    verdict: str | None
    reasons: list[str]
    waiver: str | None = None


def judge_reports(
    reports: Sequence[Any],
    expected: Mapping[str, str] | None = None,
    waivers: Mapping[str, str] | None = None,
    *,
    on_inconclusive: Literal["pass", "block"] = "pass",
) -> dict[str, Any]:
    """Return the content of ``eval_report_final.json``.

    Args:
        reports: contents of report files, one a suite.
        expected: suite → gate of every suite that must have a report; any other suite's report is blocked. By default
            the suites that the reports name.
        waivers: quality suite → reason.
        on_inconclusive: ``block``: a suite also fails while its verdict is INCONCLUSIVE.

    Returns:
        The published keys ``overall_score`` (mean pass rate, a blocked suite counting 0), ``target_score``,
        ``ship_gates_passed``, ``cleared_for_deployment`` and ``test_results`` (one object a suite, see
        :class:`GateResult`), and ``format``, ``timestamp``, ``on_inconclusive``, ``waivers`` and ``reasons``.

    Raises:
        UserError: no report and no suite, or a waiver that names no suite, a ship suite, or no reason.
    """
    if not reports and not expected:
        raise UserError("there is no report to judge; give the reports that `mlx-lora eval --out` writes")
    names = [_name_of(report) for report in reports]
    results = [_result(report, expected, on_inconclusive) for report in reports]
    for result, count in zip(results, map(Counter(names).__getitem__, names), strict=True):
        if count > 1:
            _block(result, f"{count} reports are of this suite; give one")
    results += [_missing(name, gate) for name, gate in (expected or {}).items() if name not in names]
    _waive(results, waivers or {})
    overall = sum(r.pass_rate or 0.0 for r in results if r.status != "BLOCKED") / len(results)
    shipped = all(r.status == "PASSED" for r in results if r.gate == "ship")
    settled = all(r.status in ("PASSED", "WAIVED") for r in results)
    # A mean of rates such as 0.9 and 0.9 is a little below 0.9.
    reached = overall >= TARGET_SCORE - 1e-12
    reasons = [f"{r.test_name}: {reason}" for r in results if r.status in ("FAILED", "BLOCKED") for reason in r.reasons]
    if not reached:
        reasons.append(f"the overall score {overall:.3f} is below {TARGET_SCORE:g}")
    return {
        "format": FORMAT,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "overall_score": overall,
        "target_score": TARGET_SCORE,
        "ship_gates_passed": shipped,
        "cleared_for_deployment": shipped and settled and reached,
        "on_inconclusive": on_inconclusive,
        "waivers": dict(waivers or {}),
        "reasons": reasons,
        "test_results": [asdict(result) for result in results],
    }


def _name_of(report: Any) -> str:
    name = report.get("test_name") if isinstance(report, dict) else None
    return name if isinstance(name, str) and name else "(no suite)"


def _result(report: Any, expected: Mapping[str, str] | None, on_inconclusive: str) -> GateResult:
    name = _name_of(report)
    wrong = incomplete(report)
    if not wrong and expected is not None and name not in expected:
        wrong = f"this report is of another suite; the suites are {', '.join(expected)}"
    if wrong:
        # A report that cannot be read might be a ship suite's.
        gate = report.get("gate") if isinstance(report, dict) else None
        return _block(_missing(name, (expected or {}).get(name) or (gate if gate in GATES else "ship")), wrong)
    gate = (expected or {}).get(name, report["gate"])
    reasons = list(report.get("reasons", []))
    passed, verdict = report["gate_passed"], report.get("verdict")
    if not passed and not reasons:
        reasons = [f"{report['passed']} of {report['total_tests']} cases pass, which does not reach the threshold"]
    if passed and on_inconclusive == "block" and verdict != "PASS":
        passed, needed = False, report.get("cases_needed")
        more = f"{needed} more cases would settle it" if needed else "these cases do not settle it"
        reasons.append(f"the verdict is {verdict or 'missing'}, {more}")
    counts = {key: report[key] for key in ("pass_rate", "passed", "failed", "total_tests", "gate_passed")}
    return GateResult(
        name,
        gate,
        "PASSED" if passed else "FAILED",
        threshold=report.get("threshold"),
        verdict=verdict,
        reasons=reasons,
        **counts,
    )


def incomplete(report: Any) -> str | None:
    """Return why a report cannot be judged, in a sentence; ``None`` if it can."""
    if not isinstance(report, dict):
        return f"a report is a JSON object, not {shortened(report)}; run the evaluation again"
    if UNUSABLE in report:
        return str(report[UNUSABLE])
    missing = [name for name in FIELDS if name not in report]
    if missing:
        return f"the report lacks {', '.join(missing)}; run the evaluation again"
    total, passed, failed, results = (report[name] for name in ("total_tests", "passed", "failed", "results"))
    if not all(type(value) is int and value >= 0 for value in (total, passed, failed)):
        return "total_tests, passed and failed must be whole numbers; run the evaluation again"
    if total == 0:
        return "the report has no case; run the evaluation again with cases"
    if not isinstance(results, list) or len(results) != total:
        found = len(results) if isinstance(results, list) else 0
        return f"the report is incomplete: {found} results of {total} cases; run the evaluation again, it resumes"
    return _inconsistent(report)


def _inconsistent(report: Mapping[str, Any]) -> str | None:
    total, passed, failed, rate = (report[name] for name in ("total_tests", "passed", "failed", "pass_rate"))
    again = "; run the evaluation again"
    if passed + failed != total:
        return f"passed {passed} and failed {failed} are not {total} cases together{again}"
    marks: list[Any] = [row.get("passed") for row in report["results"] if isinstance(row, dict)]
    if len(marks) != total or any(type(mark) is not bool for mark in marks):
        return f"a result does not say if its case passed{again}"
    if sum(marks) != passed:
        return f"{sum(marks)} results have passed, and the report says {passed}{again}"
    if type(rate) not in (int, float) or abs(rate - passed / total) > 0.005:
        return f"the pass rate {shortened(rate)} is not {passed} of {total}{again}"
    if report["gate"] not in GATES or type(report["gate_passed"]) is not bool:
        return f"gate must be one of {' and '.join(GATES)}, and gate_passed true or false{again}"
    reasons, verdict, needed = report.get("reasons", []), report.get("verdict"), report.get("cases_needed")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        return f"reasons must be a list of sentences{again}"
    if verdict not in (None, *VERDICTS) or not (needed is None or type(needed) is int):
        return f"verdict must be one of {', '.join(VERDICTS)}, and cases_needed a whole number{again}"
    threshold, measure = report.get("threshold"), report.get("measure", "pass_rate")
    if report["gate_passed"] and measure == "pass_rate" and type(threshold) in (int, float) and rate < threshold:
        return f"gate_passed is true, and the pass rate {rate:g} is below {threshold:g}{again}"
    return None


def _missing(name: str, gate: str) -> GateResult:
    said = "there is no report; run the evaluation of this suite"
    return GateResult(name, gate, "BLOCKED", None, None, 0, 0, 0, False, None, [said])


def _block(result: GateResult, reason: str) -> GateResult:
    result.status, result.gate_passed, result.verdict, result.reasons = "BLOCKED", False, None, [reason]
    return result


def _waive(results: Sequence[GateResult], waivers: Mapping[str, str]) -> None:
    known = {result.test_name: result for result in results}
    for name, reason in waivers.items():
        if name not in known:
            raise UserError(f"the waiver {shortened(name)} names no suite; the suites are {', '.join(known)}")
        if not reason.strip():
            raise UserError(f"the waiver of {name} has no reason; say why it may fail")
        result = known[name]
        if result.gate == "ship":
            raise UserError(f"{name} is a ship suite, which cannot be waived; only quality suites can")
        if result.status == "FAILED":
            result.status, result.waiver = "WAIVED", reason

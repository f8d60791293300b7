"""Values of the report's templates, from suite reports: rows of the table, cases, performance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...reporting.interval_bar import Scale, interval_bar

PASSED, FAILED, UNANSWERED = "passed", "failed", "not answered"
# Fields of a report that have a place of their own on the page.
SHOWN = {
    *("format", "suite", "test_name", "description", "target", "gate", "total_tests", "passed", "failed"),
    *("not_answered", "pass_rate", "threshold", "measure", "score", "gate_passed", "verdict", "interval"),
    *("cases_needed", "criteria", "reasons", "balanced", "best_constant", "distinct_answers", "warnings"),
    *("performance", "results"),
}
PERFORMANCE = {
    "load_s": ("load time", "{:.1f} s", 1.0),
    "first_token_s": ("time to first token", "{:.2f} s", 1.0),
    "tokens_per_s": ("tokens a second", "{:,.0f}", 1.0),
    "peak_memory_bytes": ("peak memory", "{:.2f} GB", 1e9),
}


def as_text(value: Any) -> str:
    """Return text as it is, anything else (content parts, tool calls) as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, indent=2, default=str)


def three_digits(value: float | None) -> str:
    """Return a rate with three decimals, a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def more_cases(needed: int | None) -> str:
    """Return what would settle a verdict, empty where nothing is needed or no number would."""
    return f"{needed:,} more {'case' if needed == 1 else 'cases'} would settle it" if needed else ""


def criteria_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the criteria of a report; of a published one, which has none, its threshold on the pass rate."""
    rate, threshold = report.get("pass_rate"), report.get("threshold")
    alone = {"criterion": "pass rate", "asked": "" if threshold is None else f"≥ {threshold:g}", "reached": rate}
    rest = {"verdict": report.get("verdict"), "interval": report.get("interval"), "met": report.get("gate_passed")}
    return report.get("criteria") or [{**alone, **rest, "cases_needed": report.get("cases_needed")}]


def threshold_of(criterion: Mapping[str, Any]) -> float | None:
    """Return the number in a criterion such as ``≥ 0.95``."""
    try:
        return float(str(criterion["asked"]).split()[-1])
    except (ValueError, IndexError):
        return None


def criterion_view(criterion: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """Return a criterion with its interval drawn."""
    interval, reached = criterion.get("interval"), criterion["reached"]
    return {
        "name": criterion["criterion"],
        "asked": criterion["asked"],
        "met": criterion.get("met"),
        "reached": three_digits(reached),
        "interval": " to ".join(map(three_digits, interval)) if interval else "",
        "bar": interval_bar(reached, interval, scale, threshold_of(criterion)) if interval else "",
        "verdict": criterion.get("verdict") or "",
        "needed": more_cases(criterion.get("cases_needed")),
    }


def suite_row(
    result: Mapping[str, Any], report: Mapping[str, Any] | None, anchor: str | None, scale: Scale
) -> dict[str, Any]:
    """Return one row of the table of suites.

    Args:
        result: the suite's object in ``test_results`` of the final report.
        report: the suite's report, None where it cannot be judged.
        anchor: id of the suite's section of answers.
    """
    row: dict[str, Any] = {"name": result["test_name"], "gate": result["gate"], "anchor": anchor}
    row |= {"status": result["status"], "reasons": result["reasons"], "waiver": result["waiver"]}
    if report is None:
        return {**row, "passed": "", "unanswered": 0, "criteria": [], "balanced": "–", "constant": "–", "distinct": "–"}
    best = report.get("best_constant")
    return {
        **row,
        "passed": f"{report['passed']:,} of {report['total_tests']:,}",
        "unanswered": report.get("not_answered", 0),
        "criteria": [criterion_view(criterion, scale) for criterion in criteria_of(report)],
        "balanced": three_digits(report.get("balanced")),
        "constant": three_digits(best["score"] if best else None),
        "distinct": f"{report.get('distinct_answers', '–')}",
    }


def outcome(result: Mapping[str, Any]) -> str:
    """Return passed, failed or not answered."""
    if result["passed"]:
        return PASSED
    return FAILED if result.get("answer") is not None else UNANSWERED


def case_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return one answered case."""
    found = outcome(result)
    return {
        "id": result.get("id", ""),
        "tags": ", ".join(map(str, result.get("tags") or [])),
        "outcome": found,
        # A case that was not answered counts as failed.
        "is": {PASSED: "passed", FAILED: "failed", UNANSWERED: "failed unanswered"}[found],
        "reason": as_text(result.get("reason")),
        "prompt": as_text(result.get("prompt")),
        "answer": None if result.get("answer") is None else as_text(result["answer"]),
        "error": as_text(result.get("error")),
        "metrics": ", ".join(f"{name} {value:g}" for name, value in (result.get("metrics") or {}).items()),
    }


def performance_of(reports: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return label → figure of the target, as last measured; a figure that was not measured is left out."""
    found: dict[str, float] = {}
    for report in reports:
        found |= {key: value for key, value in (report.get("performance") or {}).items() if value is not None}
    return {label: text.format(found[key] / unit) for key, (label, text, unit) in PERFORMANCE.items() if found.get(key)}


def settings_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what else a report says: the settings of generation, further measures, and the speed of this suite."""
    rest = [(key.replace("_", " "), value) for key, value in report.items() if key not in SHOWN and value is not None]
    said = [(name, f"{value:.4g}" if isinstance(value, float) else as_text(value)) for name, value in rest]
    return [*said, *performance_of([report]).items()]


def target_names(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of the targets of reports, each once."""
    return ", ".join(dict.fromkeys(str(report.get("target", "")) for report in reports))
